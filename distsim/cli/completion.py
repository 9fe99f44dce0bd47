"""`distsim completion`: scripts with which bash, zsh and fish complete the commands, flags and values of `distsim`.

They are written from the parser of the commands, so they know every flag, and need no library.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from shlex import quote
from typing import Any

from distsim.metrics.registry import METRICS
from distsim.problems import PROBLEMS

SHELLS = ("bash", "zsh", "fish")
DESCRIPTION = (
    "Print what makes a shell complete commands, flags, problems, metrics and paths. For bash, put this line into "
    '~/.bashrc: eval "$(distsim completion bash)". For zsh, into ~/.zshrc, below compinit: '
    "source <(distsim completion zsh). For fish: distsim completion fish > "
    "~/.config/fish/completions/distsim.fish"
)
PATHS = {"STORE", "FOLDER", "FILE", "FILE.html", "FILE.csv", "SOURCE", "STUDY", "WHERE"}  # what a metavar stands for


@dataclass(frozen=True)
class Taken:
    """What may follow a flag, or stand in the place of arguments without one."""

    words: tuple[str, ...] = ()
    paths: bool = False  # whether files and folders may, too
    many: bool = False  # whether several may follow


@dataclass(frozen=True)
class Flag:
    """A flag of a command: its name, what it does, and what may follow it (None: nothing)."""

    name: str
    does: str
    taken: Taken | None


@dataclass(frozen=True)
class Known:
    """What may follow the name of a command."""

    name: str
    does: str
    flags: tuple[Flag, ...]
    arguments: Taken


def flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's argument."""
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=f"the shell: {', '.join(SHELLS)}")


def do_completion(flags: argparse.Namespace) -> int:
    """Print the script for the shell."""
    known = known_commands(flags.parser)
    print({"bash": _bash, "zsh": _zsh, "fish": _fish}[flags.shell](known), end="")
    return 0


def known_commands(parser: argparse.ArgumentParser) -> tuple[Known, ...]:
    """Return what may follow each command of a parser."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    helps = {choice.dest: choice.help or "" for choice in commands._choices_actions}
    return tuple(_known(name, helps[name], subparser) for name, subparser in commands.choices.items())


def _known(name: str, does: str, parser: argparse.ArgumentParser) -> Known:
    flags, arguments = [], [Taken()]
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        taken = None if action.nargs == 0 else _taken(action)
        if taken is not None and not action.option_strings:
            arguments.append(taken)
        flags += [Flag(flag, _first_words(action.help or ""), taken) for flag in action.option_strings]
    words = tuple(word for taken in arguments for word in taken.words)
    return Known(name, does, tuple(flags), Taken(words, any(taken.paths for taken in arguments), many=True))


def _taken(action: argparse.Action) -> Taken:
    """Return what a flag or an argument takes, as far as its choices and its metavar say."""
    metavars = action.metavar if isinstance(action.metavar, tuple) else (action.metavar,)
    words: tuple[str, ...] = tuple(map(str, action.choices or ()))
    if action.dest == "problem" or (not words and "PROBLEM" in metavars):
        words = tuple(PROBLEMS)
    elif not words and action.dest == "metrics":
        words = tuple(METRICS)
    return Taken(words, bool(PATHS.intersection(metavars)), action.nargs in ("+", "*", 2))


def _first_words(help: str) -> str:
    """Return the beginning of a help text: as much as a list of flags has room for."""
    text = help.split(" (default")[0].split(";")[0].split(":")[0].replace("%%", "%")
    return text if len(text) <= 70 else f"{text[:67].rsplit(' ', 1)[0]} ..."


# --- bash and zsh: one `case` each, of what is taken after the last flag ----------------------------------------------


def _cases(known: tuple[Known, ...]) -> Iterator[str]:
    """Yield `case` branches that set `found` and `paths`, for "COMMAND FLAG" and for "COMMAND "."""
    for command in known:
        of_flags = [(flag.name, flag.taken) for flag in command.flags if flag.taken is not None]
        for name, taken in [*of_flags, ("", command.arguments)]:
            count = "several" if taken.many else "one"
            paths = "yes" if taken.paths else ""
            yield (
                f"    {quote(f'{command.name} {name}')}) found=({' '.join(map(quote, taken.words))}) paths={paths} "
                f"count={count} ;;"
            )


LOOK = """\
  # the last flag before the cursor, and how many words have followed it
  for ((i = at - 1; i > first; i--)); do
    case ${before[i]} in
      '=') ;;
      --*=*) flag=${before[i]%%=*}; break ;;
      -?*) flag=${before[i]}; break ;;
      *) ((followed++)) ;;
    esac
  done
  case "$command $flag" in
CASES
    *) flag= ;;
  esac
  # behind a flag that takes one word, and has it, come arguments again
  if [[ -n $flag && $count == one && followed -gt 0 ]]; then flag=; fi
  if [[ -z $flag ]]; then
    case "$command " in
CASES
    esac
  fi
"""

BASH = """\
# bash completion for distsim, written by `distsim completion bash`
_distsim() {
  local current=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]} flag= count= paths= i followed=0
  local at=$COMP_CWORD first=1
  local -a before=("${COMP_WORDS[@]}") found=()
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W 'COMMANDS --help' -- "$current"))
    return
  fi
  if [[ $current == -* ]]; then
    case $command in
FLAGS
    esac
    COMPREPLY=($(compgen -W "${found[*]}" -- "$current"))
    return
  fi
  [[ $current == = ]] && current=
LOOK
  COMPREPLY=($(compgen -W "${found[*]}" -- "$current"))
  if [[ -n $paths ]]; then
    local IFS=$'\\n'
    COMPREPLY+=($(compgen -f -- "$current"))
    compopt -o filenames 2> /dev/null
  fi
}
complete -F _distsim distsim
"""

ZSH = """\
#compdef distsim
# zsh completion for distsim, written by `distsim completion zsh`
_distsim() {
  local command=${words[2]} current=${words[CURRENT]} flag= count= paths= i followed=0
  local at=$((CURRENT - 1)) first=1
  local -a before found described
  before=("${(@)words[2,-1]}")  # as in bash, the command has the number 1
  if ((at == 1)); then
    described=(COMMANDS)
    _describe command described
    return
  fi
  if [[ $current == -* ]]; then
    case $command in
FLAGS
    esac
    _describe flag described
    return
  fi
LOOK
  (( $#found )) && compadd -- "${found[@]}"
  [[ -n $paths ]] && _files
}
compdef _distsim distsim
"""


def _bash(known: tuple[Known, ...]) -> str:
    flags = [f"    {c.name}) found=({' '.join(flag.name for flag in c.flags)}) ;;" for c in known]
    return _filled(BASH, known, " ".join(command.name for command in known), flags)


def _zsh(known: tuple[Known, ...]) -> str:
    flags = [f"    {c.name}) described=({' '.join(_described(f.name, f.does) for f in c.flags)}) ;;" for c in known]
    return _filled(ZSH, known, " ".join(_described(command.name, command.does) for command in known), flags)


def _described(name: str, does: str) -> str:
    return quote(f"{name}:{does}")


def _filled(script: str, known: tuple[Known, ...], commands: str, flags: list[str]) -> str:
    look = LOOK.replace("CASES", "\n".join(_cases(known)))
    return script.replace("LOOK\n", look).replace("FLAGS", "\n".join(flags)).replace("COMMANDS", commands)


# --- fish -------------------------------------------------------------------------------------------------------------

FISH = """\
# fish completion for distsim, written by `distsim completion fish`
function __distsim_command
    set -l words (commandline -opc)
    test (count $words) -gt 1; and test $words[2] = $argv[1]
end
function __distsim_behind # a flag that takes several words, of which some are there
    set -l words (commandline -opc)
    set -l flag
    for word in $words
        string match -q -- '--*' $word; and set flag $word
    end
    test "$flag" = $argv[1]
end
complete -c distsim -f
"""


def _fish(known: tuple[Known, ...]) -> str:
    return FISH + "\n".join(_fish_lines(known)) + "\n"


def _fish_lines(known: tuple[Known, ...]) -> Iterator[str]:
    for command in known:
        yield f"complete -c distsim -n 'test (count (commandline -opc)) -eq 1' -a {command.name} -d {_q(command.does)}"
        of_command = f"__distsim_command {command.name}"
        for flag in command.flags:
            name = f"-l {flag.name[2:]}" if flag.name.startswith("--") else f"-s {flag.name[1:]}"
            yield f"complete -c distsim -n {_q(of_command)} {name} -d {_q(flag.does)}{_fish_takes(flag.taken)}"
            if flag.taken is not None and flag.taken.many:
                behind = f"{of_command}; and __distsim_behind {flag.name}"
                yield f"complete -c distsim -n {_q(behind)}{_fish_takes(flag.taken, after_flag=False)}"
        yield f"complete -c distsim -n {_q(of_command)}{_fish_takes(command.arguments, after_flag=False)}"


def _fish_takes(taken: Taken | None, after_flag: bool = True) -> str:
    if taken is None:
        return ""
    needed = " -r" if after_flag else ""
    return f"{needed} {'-F' if taken.paths else '-f'}" + (f" -a {_q(' '.join(taken.words))}" if taken.words else "")


def _q(text: Any) -> str:
    """Quote for fish, which knows backslashes within quotes."""
    return "'" + str(text).replace("\\", "\\\\").replace("'", "\\'") + "'"
