# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quickstart
#
# A dense teacher, an 80 % sparse student, a look at its masks, a finetuned model, and all of it loaded by transformers: in less
# than six minutes on two cores. Text is prose from the docstrings of the installed packages, so nothing is downloaded.

# %%
import os
from pathlib import Path

if not Path("configs").is_dir() and Path("../configs").is_dir():
    os.chdir("..")  # so that runs/ is where the command line has it

STEPS = 250  # of pretraining; the quickstart of the command line takes 1,000
EXAMPLES = 512  # of finetuning
TEXT = "docstrings"  # or a file or directory of your own
RUNS = "runs/notebook"
MODEL = []  # further options of pretraining, such as another model

# %% [markdown]
# ## A dense teacher
#
# `train.main` takes what the command line takes. A run says what it is about to do, and keeps what it made in a directory of
# its own.

# %%
import train

QUIET = [f"--runs={RUNS}", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
TEXT_OPTIONS = [
    f"--data.path={TEXT}",
    "--data.eval_sequences=512",
    f"--trainer.max_steps={STEPS}",
    "--trainer.val_check_interval=0.25",
]

teacher = train.main(["fit", "--config=quickstart_teacher", *TEXT_OPTIONS, *QUIET]).trainer.default_root_dir

# %% [markdown]
# ## A sparse student
#
# RigL masks, one-cycle learning rate and the teacher: 80 % of the encoder's weights are zero from the first step to the last.

# %%
student = train.main(
    [
        *("fit", "--config=quickstart", f"--distillation.teachers={teacher}/export", "--masks.every=20"),
        *("--masks.growth=balanced_gradient", *TEXT_OPTIONS, *QUIET),
    ]
).trainer.default_root_dir

# %% [markdown]
# ## Its masks
#
# An export is a Hugging Face directory with the masks beside it. Here the feed-forward matrix of the first layer as it lies,
# with the density of its rows and columns beside that of a random mask.

# %%
# %matplotlib inline
from callbacks.figures import mask_picture
from sparsity import load_masks

masks = load_masks(Path(student, "export"))
name = next(name for name in masks if "mlp.Wi" in name)
mask_picture(masks[name], name)

# %%
{name: f"{nnz:,} of {masks[name].numel():,}" for name, nnz in masks.nnz().items()}

# %% [markdown]
# ## Finetuned
#
# The student on a task, with its masks held. GLUE needs its files (`python -m datamodules.glue_download`), so this is a toy that
# stands for CoLA: are the words of a sentence in order?

# %%
from datamodules import write_toy_glue

write_toy_glue(Path(RUNS, "toy_glue"), corpus=TEXT)
tuned = train.main(
    [
        *(
            "fit",
            "--config=finetune",
            "--data.task=CoLA",
            f"--data.path={RUNS}/toy_glue",
            f"--model.pretrained={student}/export",
        ),
        *("--model.lr=1e-4", "--trainer.max_epochs=2", f"--data.train_examples={EXAMPLES}", *QUIET),
    ]
).trainer.default_root_dir

# %% [markdown]
# ## Compared
#
# `summary.json` holds the results of a run, and `report.py` makes tables of any number of them.

# %%
import report

report.main([f"{RUNS}/quickstart_teacher", f"{RUNS}/quickstart", "--format", "markdown"])

# %% [markdown]
# ## In transformers
#
# The student is an ordinary model. After so few steps it knows which words are frequent, and little more.

# %%
from transformers import pipeline

fill = pipeline("fill-mask", model=f"{student}/export")
print([answer["token_str"] for answer in fill(f"the shape of the {fill.tokenizer.mask_token} .")])

classify = pipeline("text-classification", model=f"{tuned}/export")
print(classify(["the shape of the array must be given", "given array be the shape the of must"]))

assert not fill.model.get_parameter(name)[~masks[name]].any()  # what is off is exactly 0.0
