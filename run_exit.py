"""How a process of training ends: exit codes beside 0 (finished), 1 (an error, said in one line) and 2.

====  ==========================================================================================
code  meaning
====  ==========================================================================================
75    stopped by a signal, with a checkpoint: the same command with ``--ckpt_path last`` goes on
====  ==========================================================================================
"""

import os

STOPPED = os.EX_TEMPFAIL
