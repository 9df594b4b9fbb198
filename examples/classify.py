"""Classify two sentences with a finished model: ``python examples/classify.py MODEL [SENTENCE …]``.

MODEL is the export of a finetuned model, or the file that ``deploy.py pack`` made of it. Its linear layers run
sparse where that is faster on this machine.
"""

import argparse
import sys
from pathlib import Path

from transformers import pipeline

sys.path.insert(0, str(Path(__file__).parent.parent))
from deployment import load

SENTENCES = ["The film is a quiet pleasure from its first minute to its last.", "Nobody should have to sit through this."]


def main(arguments: list[str] | None = None) -> None:
    """Print label and score of each sentence."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="directory of an export, or a packed file")
    parser.add_argument("sentences", nargs="*", help="default: two about a film")
    options = parser.parse_args(arguments)
    sentences = options.sentences or SENTENCES
    model, tokenizer = load(options.model, sparse_tokens=32 * len(sentences))
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu", batch_size=len(sentences))
    for sentence, answer in zip(sentences, classify(sentences), strict=True):
        print(f"{answer['label']} {answer['score']:.3f}  {sentence}")


if __name__ == "__main__":
    main()
