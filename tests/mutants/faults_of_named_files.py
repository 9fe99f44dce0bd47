"""Faults that outsiders found with files and folders that a user names, made again."""

from mutants.mutant import Kind, Mutant

NAMED = "test_named_files.py::"
PUBLISHED = "results/test_published.py::"
MISTAKES = "cli/test_mistakes.py::"
PROGRESS = "cli/test_progress.py::"
HOMES = (MISTAKES + "test_a_home_means_the_same_in_each_flag",)

WHOLE = (
    Mutant(
        "named-files-in-place",
        "A full disk leaves a part of the file that somebody named, and nothing of what was there.",
        "named_files.py",
        "    write_together({file: content}, name)\n",
        "    file.write_bytes(content)\n",
        (NAMED + "test_a_file_is_written_whole_or_not_at_all",),
    ),
    Mutant(
        "named-files-one-after-another",
        "A full disk leaves some new files beside old ones that do not fit them.",
        "named_files.py",
        """                aside[target] = _write_aside(target, content)
        for target, (file, _) in files.items():
            with _said(file, name):
                aside[target].replace(target)
""",
        """                aside[target] = _write_aside(target, content)
                aside[target].replace(target)
""",
        (NAMED + "test_files_are_written_all_or_none",),
    ),
    Mutant(
        "unfinished-files-stay",
        "Files that could not all be written stay in the folder under names of their own.",
        "named_files.py",
        "            left.unlink(missing_ok=True)\n",
        "            pass\n",
        (NAMED + "test_files_are_written_all_or_none",),
    ),
    Mutant(
        "written-through-links",
        "A link in a published study is followed, and a file elsewhere is overwritten.",
        "named_files.py",
        "_put({folder / inside: (folder / inside, content) for",
        "_put({Path(os.path.realpath(folder / inside)): (folder / inside, content) for",
        (
            NAMED + "test_of_links_one_is_followed_and_one_replaced",
            PUBLISHED + "test_a_link_in_a_published_study_is_replaced",
        ),
    ),
    Mutant(
        "errors-name-what-a-link-leads-to",
        "An error names a path that nobody has typed.",
        "named_files.py",
        "targets[Path(os.path.realpath(file))] = file, content",
        "targets[Path(os.path.realpath(file))] = Path(os.path.realpath(file)), content",
        (NAMED + "test_errors_name_the_file_as_the_user_did",),
    ),
    Mutant(
        "published-files-in-place",
        "A merge that a full disk ends leaves a study whose tables do not fit together.",
        "results/merging.py",
        "    write_all(folder, files)\n",
        "    folder.mkdir(parents=True, exist_ok=True)\n"
        "    for name, content in files.items():\n"
        "        (folder / name).write_bytes(content)\n",
        (PUBLISHED + "test_a_full_disk_leaves_the_study_that_was_there",),
    ),
    Mutant(
        "folders-with-hidden-files-are-full",
        "A new folder into which a file browser has looked is refused.",
        "results/merging.py",
        'any(not entry.name.startswith(".") for entry in folder.iterdir())',
        "any(folder.iterdir())",
        (PUBLISHED + "test_a_full_disk_leaves_the_study_that_was_there",),
    ),
    Mutant(
        "damaged-studies-are-replaced-by-any-part",
        "A study of which one table is damaged is replaced by one that has fewer runs.",
        "results/merging.py",
        'if all(any(_holds(ours, part) for ours in study.parts) for part in record["parts"]):',
        "if True:",
        (PUBLISHED + "test_what_is_published_is_not_lost",),
    ),
    Mutant(
        "studies-without-a-record-are-replaced",
        "A study whose study.json is damaged is replaced by any other, of another sweep too.",
        "results/merging.py",
        'raise ValueError(f"{error}. What else is in this folder would be lost: move it, or name another") from None',
        "return",
        (PUBLISHED + "test_what_is_published_is_not_lost",),
    ),
    Mutant(
        "edited-texts-are-overwritten",
        "Names and licence that somebody wrote into README.md are gone with the next export.",
        "results/archive.py",
        "{name: content for name, content in to_edit.items() if name not in there}",
        "to_edit",
        ("cli/test_export.py::test_texts_that_were_edited_are_left_alone",),
    ),
)

WHERE = (
    Mutant(
        "no-home-in-log",
        "--log ~/log looks for a folder of the name ~.",
        "cli/progress.py",
        "open(where, ",
        "open(path or os.devnull, ",
        (PROGRESS + "test_a_log_is_where_a_shell_would_find_it",),
    ),
    Mutant(
        "no-home-in-layers",
        "layers --out ~/x makes a folder of the name ~.",
        "cli/pairing.py",
        '    folder = place(flags.out, "--out")\n',
        "    from pathlib import Path\n\n    folder = Path(flags.out)\n",
        HOMES,
    ),
    Mutant(
        "no-home-in-export",
        "export --out ~/x makes a folder of the name ~.",
        "cli/exporting.py",
        '    file = place(flags.out or f"{Stored(store, which).label}.{ENDINGS[flags.to]}", "--out")\n',
        "    from pathlib import Path\n\n"
        '    file = Path(flags.out or f"{Stored(store, which).label}.{ENDINGS[flags.to]}")\n',
        HOMES,
    ),
    Mutant(
        "homes-of-nobody",
        "A home that is not there ends a command in a traceback.",
        "named_files.py",
        "    except (RuntimeError, ValueError) as error:\n",
        "    except ValueError as error:\n",
        (NAMED + "test_what_is_no_path_is_said",),
    ),
    Mutant(
        "files-above-are-not-named",
        "Where a file stands in the place of a folder, it is not said which one.",
        "named_files.py",
        "        reason = next(files, error.strerror or str(error))\n",
        "        reason = error.strerror or str(error)\n",
        (NAMED + "test_a_folder_in_the_way_is_said",),
    ),
    Mutant(
        "logs-wait-for-a-reader",
        "A sweep whose log is a pipe waits before it begins until somebody reads there.",
        "cli/progress.py",
        ", opener=_without_waiting)",
        ")",
        (PROGRESS + "test_a_pipe_that_nobody_reads_is_no_log",),
    ),
    Mutant(
        "started-nowhere",
        "A command that starts in a folder that is gone calls the store missing.",
        "cli/output.py",
        "isinstance(error, FileNotFoundError) and _started_nowhere()",
        "False",
        (MISTAKES + "test_a_folder_that_is_gone_is_said",),
    ),
)

KINDS = (
    Kind("Files that a user names are whole, or as they were", WHOLE),
    Kind("A path means the same everywhere", WHERE),
)
