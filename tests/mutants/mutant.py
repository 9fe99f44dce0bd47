"""What a mutant is: one small mistake in distsim's code, and the tests that must notice it."""

from dataclasses import dataclass
from pathlib import Path


class Stale(Exception):
    """A mutant no longer fits the code. The text says which one and why."""


@dataclass(frozen=True)
class Mutant:
    """One mistake, made by replacing a text that occurs exactly once in its file.

    Where the texts are short for a whole line, they end within it: what stands around them stays.
    """

    name: str
    spoils: str  # what the mistake would do to a study
    file: str  # within distsim/
    old: str
    new: str
    tests: tuple[str, ...]  # FILE::TEST within tests/, all parameters of a test together
    changes_nothing: str = ""  # why no test can notice it; such a mutant must survive

    def applied(self, source: str) -> str:
        """Return the file's text with the mistake in it. Stale: the old text does not occur exactly once."""
        if (times := source.count(self.old)) != 1:
            raise Stale(f"{self.name}: its old text occurs {times} times in distsim/{self.file}, expected once")
        return source.replace(self.old, self.new)

    def check(self, root: Path) -> None:
        """Check that the mutant fits the code under `root`. Stale: its text or a test of it is not there."""
        path = root / "distsim" / self.file
        if not path.exists():
            raise Stale(f"{self.name}: there is no distsim/{self.file}")
        try:
            compile(self.applied(path.read_text()), str(path), "exec")
        except SyntaxError as error:
            raise Stale(f"{self.name}: with its new text distsim/{self.file} is no Python: {error}") from None
        for test in self.tests:
            file, _, function = test.partition("::")
            tests = root / "tests" / file
            if not tests.exists() or f"def {function}(" not in tests.read_text():
                raise Stale(f"{self.name}: there is no test {test}")


@dataclass(frozen=True)
class Kind:
    """A kind of fault that outsiders found. It is mended, and its mutants make it again as it was."""

    name: str
    mutants: tuple[Mutant, ...]
    also: tuple[str, ...] = ()  # names of mutants of other kinds, and of other modules, that make it too

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of all its mutants."""
        return (*(one.name for one in self.mutants), *self.also)
