"""What teachers said, kept on disk: who asks them the same again pays for no forward.

A record is one file, named by the digest of the micro-batch that was asked about: neither the step nor the rank matters, and
any number of processes share a directory. It begins with a checksum; what is damaged counts as missing. The rest is
safetensors, which cannot run code.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from transformers import PreTrainedModel

from objectives.distillation import top_k_probabilities

FORMAT = 1  # raised when older records would be read otherwise
DIGEST_BYTES = 16
LOCKED_AT_MOST = 60.0  # seconds; a record is written in less than one


class SoftTargets(NamedTuple):
    """Of N rows over ``classes`` classes: (N, k + 1) probabilities and the (N, k) classes kept (:func:`top_k_probabilities`)."""

    probabilities: Tensor
    kept: Tensor
    classes: int


def teachers_digest(teachers: Sequence[PreTrainedModel], *settings: object) -> str:
    """Digest of models, by their weights and configs, and of the settings they are asked with; paths do not count."""
    digest = hashlib.blake2b(repr((FORMAT, settings)).encode(), digest_size=DIGEST_BYTES)
    for teacher in teachers:
        fields = {**teacher.config.to_dict(), "_name_or_path": None, "transformers_version": None}
        digest.update(json.dumps([type(teacher).__name__, fields], sort_keys=True, default=str).encode())
        _add_tensors(digest, teacher.state_dict())
    return digest.hexdigest()


def batch_digest(batch: Mapping[str, Tensor], classes: int) -> str:
    """Digest of all that is in a batch, and of the number of classes that the student knows."""
    digest = hashlib.blake2b(str(classes).encode(), digest_size=DIGEST_BYTES)
    _add_tensors(digest, batch)
    return digest.hexdigest()


def _add_tensors(digest: "hashlib.blake2b", tensors: Mapping[str, Tensor]) -> None:
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(repr((name, tensor.dtype, tensor.shape)).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)


def pack(target: Tensor, k: int, name: str) -> bytes:
    """A record of (N, classes) probabilities: 2 · (2k + 1) bytes a row up to 65,536 classes, else 2 · (3k + 1).

    Half precision has 11 bits of each probability, also of the rest, which is stored too; below 3e-8 it has none. The divergence
    of what is read from what was said is less than 1e-7 nats, far less than what is lost by leaving tokens out.
    """
    probabilities, kept = top_k_probabilities(target, k)
    numbers = torch.uint16 if target.size(1) <= 1 << 16 else torch.int32
    body = save(
        {
            "probabilities": probabilities.half().cpu(),
            "kept": kept.cpu().to(numbers),
            "classes": torch.tensor(target.size(1)),
        }
    )
    return _checksum(body, name) + body


def unpack(content: bytes, name: str) -> SoftTargets | None:
    """The answer in a record, in single precision and of sum 1; None where it is damaged, or that of another name."""
    body = content[DIGEST_BYTES:]
    if content[:DIGEST_BYTES] != _checksum(body, name):
        return None
    try:
        tensors = load(body)
        probabilities = tensors["probabilities"].float()
        return SoftTargets(
            probabilities / probabilities.sum(1, keepdim=True), tensors["kept"].long(), int(tensors["classes"])
        )
    except (SafetensorError, KeyError):
        return None


def _checksum(body: bytes, name: str) -> bytes:
    return hashlib.blake2b(body, digest_size=DIGEST_BYTES, key=name.encode()).digest()


class TeacherCache:
    """Records in one directory. The first that is written stays, so that all who ask train from the same bits.

    A directory that cannot be written to, or a full disk, is one warning; what is there is read all the same.

    Args:
        directory: of the records of some teachers.
        k: classes kept of each row.
    """

    def __init__(self, directory: Path, k: int) -> None:
        self.directory, self.k = directory, k
        self.asked = self.hits = 0
        self.keeps = True

    def answer(self, batch: Mapping[str, Tensor], logits: Tensor, ask: Callable[[], Tensor]) -> SoftTargets:
        """What the teachers say of a micro-batch, as a record has it.

        Args:
            batch: that is asked about.
            logits: of the student, (N, classes).
            ask: the teachers, for (N, classes) probabilities; called where there is no record.
        """
        name = batch_digest(batch, logits.size(1))
        found = self._read(name)
        self.asked, self.hits = self.asked + 1, self.hits + (found is not None)
        if found is None:
            found = self._keep(name, pack(ask(), self.k, name))
        return SoftTargets(found.probabilities.to(logits.device), found.kept.to(logits.device), found.classes)

    def _file(self, name: str) -> Path:
        return self.directory / name[:2] / name

    def _read(self, name: str) -> SoftTargets | None:
        try:
            return unpack(self._file(name).read_bytes(), name)
        except OSError:
            return None

    def _keep(self, name: str, content: bytes) -> SoftTargets:
        """Write a record, unless another process was first; the answer that is there then."""
        partial = self.directory / "partial"
        try:
            if self.keeps:
                self._file(name).parent.mkdir(parents=True, exist_ok=True)
                with FileLock(self.directory / "lock", timeout=LOCKED_AT_MOST):
                    if there := self._read(name):
                        return there
                    try:
                        partial.write_bytes(content)
                        partial.replace(self._file(name))
                    finally:
                        partial.unlink(missing_ok=True)
        except OSError as error:
            self.keeps = False
            # of any rank, whose disk may be its own
            warnings.warn(
                f"{self.directory}: what the teachers say is no longer kept ({error}); the run goes on", stacklevel=2
            )
        answer = unpack(content, name)
        assert answer is not None, "it was packed here"
        return answer
