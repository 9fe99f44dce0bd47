"""`distsim sweep`: the sweep of any of the papers' problems, as it is or with another recipe, without a script."""

import argparse
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from distsim.cli.output import Help, print_line
from distsim.cli.studies import import_named
from distsim.cli.sweeps import add_flags, run_flags
from distsim.problems import PROBLEMS, departures
from distsim.specs import Problem, shown
from distsim.specs.changes import Toml, changed, merged, parsed, written

NAME = "distsim sweep"
EXAMPLE = "cifar2 --data folder:PATH --runs 2 --set recipe.lr=0.0005 pruning.scope=local"
DESCRIPTION = (
    "Run the sweep of one of the papers' problems, or of several in one store: train the complete network once, prune "
    "it iteratively in independent runs, compare every layer of every pruned network with the complete one, and draw "
    "the figures. The same command again resumes an interrupted sweep; larger --runs or --iterations extend a finished "
    "one. Name the problems before the flags: `distsim sweep cifar2 --help` gives the defaults of cifar2."
)


def flags(parser: argparse.ArgumentParser, problems: Sequence[Problem] = tuple(PROBLEMS.values())) -> None:
    """Give the command's parser its flags. Their help names the defaults of these problems."""
    parser.add_argument(
        "problems", nargs="*", metavar="PROBLEM", help=f"{', '.join(PROBLEMS)}, or a pattern such as 'cifar*'"
    )
    _own_flags(parser)
    add_flags(parser, problems)
    parser.set_defaults(only=None)


def do_sweep(arguments: Sequence[str]) -> int:
    """Run a sweep and return the exit status. arguments : what follows `distsim sweep` on the command line.

    ValueError: a problem is not known, a value does not fit, or the file of --config is not what it must be.
    """
    count = next((at for at, text in enumerate(arguments) if text.startswith("-")), len(arguments))
    names, rest = list(arguments[:count]), list(arguments[count:])
    first = argparse.ArgumentParser(prog=NAME, add_help=False)
    _own_flags(first)
    own, _ = first.parse_known_args(rest)  # what decides the problems; all else has defaults that depend on them
    config = _read(own.config) if own.config else {}
    if own.imported is None and isinstance(kept := config.get("sweep", {}).get("import"), str):
        own.imported = kept
    import_named(own)
    if own.config and not names:
        names = [_base(config, own.config)]
    changes: Toml = {}
    for change in own.changes:
        changes = merged(changes, parsed(change))
    problems = [_adapted(problem, config.get("problem", {}), changes) for problem in _named(names)]
    if own.print_config:
        print_line("\n".join(_config(problems)))
        return 0
    example = f"Example: {NAME} {EXAMPLE}"
    parser = argparse.ArgumentParser(prog=NAME, description=DESCRIPTION, epilog=example, formatter_class=Help)
    flags(parser, problems or tuple(PROBLEMS.values()))
    asked = parser.parse_args([*names, *_as_flags(config.get("sweep", {}), parser), *rest])
    if not problems:
        parser.error(f"name a problem before the flags: {', '.join(PROBLEMS)}")
    return run_flags(problems, asked)


# --- the command line ------------------------------------------------------------------------------------------------


def _own_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("another recipe, without writing Python (this is another sweep)")
    group.add_argument(
        "--set",
        dest="changes",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        help="change fields of the problem, as in recipe.lr=0.05 pruning.scope=local; --print-config shows all fields",
    )
    group.add_argument(
        "--config", metavar="FILE", help="take the problem, and flags of this command, from a TOML file; flags win"
    )
    group.add_argument(
        "--import",
        dest="imported",
        metavar="FILE",
        help="import this script, which registers your network, metrics or pruning criterion",
    )
    group.add_argument(
        "--print-config",
        action="store_true",
        help="print such a file for this problem, with the changes of --set, and do nothing",
    )


def _named(patterns: Sequence[str]) -> list[Problem]:
    """Return the problems of these names or patterns, in the order of the table. ValueError: one matches none."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in PROBLEMS):
            raise ValueError(f"no problem is named {shown(pattern)}; there are {', '.join(PROBLEMS)}")
    return [problem for name, problem in PROBLEMS.items() if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _adapted(problem: Problem, config: Toml, changes: Toml) -> Problem:
    """Return the problem with the fields of the file, then with those of --set."""
    problem = changed(changed(problem, config, "--config"), changes, "--set")
    # under its old name it is no longer the paper's: claims are judged as tendencies
    return dataclasses.replace(problem, reduced=True) if departures(problem) else problem


# --- the file --------------------------------------------------------------------------------------------------------


def _read(path: str) -> Toml:
    """Read the file of --config. ValueError: it is not TOML, or has other tables than `sweep` and `problem`."""
    import tomllib

    try:
        config = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read the file of --config, {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # also of text that is not UTF-8, and of a path with a zero byte
        raise ValueError(f"--config {path} is not a TOML file: {error}") from None
    odd = sorted(set(config) - {"base", "sweep", "problem"})
    tables = all(isinstance(config.get(name, {}), dict) for name in ("sweep", "problem"))
    if odd or not tables or not isinstance(config.get("base", ""), str):
        raise ValueError(
            f'--config {path}: a file may have base = "PROBLEM" and the tables [sweep] and [problem]'
            + (f", this has {', '.join(map(shown, odd))}" if odd else "")
        )
    return config


def _base(config: Toml, file: str) -> str:
    """Return the name of the problem that the file changes."""
    base = config.get("base") or config.get("problem", {}).get("name")
    if base not in PROBLEMS:
        raise ValueError(
            f'--config {file}: say which problem it changes, as base = "cifar2", or name it before the flags; '
            f"there are {', '.join(PROBLEMS)}"
        )
    return str(base)


def _as_flags(table: Mapping[str, Any], parser: argparse.ArgumentParser) -> list[str]:
    """Write the table [sweep] as flags, so that they are checked as flags. ValueError: there is no such flag."""
    known = {option.removeprefix("--") for option in parser._option_string_actions if option.startswith("--")}
    flags: list[str] = []
    for name, value in table.items():
        flag = name.replace("_", "-")
        if flag not in known or flag in ("help", "config", "print-config", "set"):
            raise ValueError(f"--config: [sweep] has {shown(name)}, which is not a flag of {NAME}")
        if isinstance(value, dict):
            raise ValueError(f"--config: [sweep] {name} must be a value, got a table")
        if value is False:
            continue
        values = [] if value is True else value if isinstance(value, list) else [value]
        flags += [f"--{flag}={values[0]}"] if len(values) == 1 else [f"--{flag}", *map(str, values)]
    return flags


def as_config(problem: Problem, sweep: Mapping[str, Any]) -> str:
    """Return the text of a file for --config that runs this problem. sweep : more flags, without the dashes"""
    lines = list(_config([problem]))
    place = next(at for at, line in enumerate(lines) if line.startswith("storage = "))
    flags = [f"{name} = {json.dumps(value)}" for name, value in sweep.items()]  # TOML of numbers, texts and lists
    return "\n".join([*lines[:place], *flags, *lines[place:]]) + "\n"


def _config(problems: Sequence[Problem]) -> Iterator[str]:
    """Yield the lines of a file for --config. ValueError: there are several problems."""
    if len(problems) != 1:
        raise ValueError(f"--print-config writes one problem, got {', '.join(problem.name for problem in problems)}")
    (problem,) = problems
    yield f"# A study for `{NAME} --config FILE`. Leave out what should keep its default."
    yield f'base = "{problem.name if problem.name in PROBLEMS else "cifar2"}"'
    yield from ("", "[sweep]  # flags of the command, without the dashes")
    yield f"runs = {problem.runs}"
    yield f"iterations = {problem.iterations}"
    yield f'storage = "results/{problem.name}"'
    yield ""
    yield from written(problem, "problem")
