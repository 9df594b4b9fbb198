"""Many fits as one protocol: what is to be run, how one fit is run and watched, what came out, and Ray Tune around it."""
