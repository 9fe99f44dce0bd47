"""Faults that outsiders found with what is another's in a store, and with stores that vanish, made again."""

from mutants.mutant import Kind, Mutant

PLACES = "store/test_places.py::"
SHUT = (PLACES + "test_a_folder_that_may_not_be_read_blocks_nothing_unless_it_is_distsims",)
LINKS = (PLACES + "test_links_and_pipes_of_others_with_names_like_distsims_block_nothing",)
VERIFIED = ("verify/test_store.py::test_files_in_the_places_of_folders_are_named",)
GONE = ("store/test_lease.py::test_a_store_that_has_gone_is_not_begun_anew",)
RAY = "sweep/test_ray_engine.py::"

OF_OTHERS = (
    Mutant(
        "lost-and-found-blocks",
        "A store in the root of a file system cannot be used, because lost+found may not be read.",
        "store/local.py",
        "        _require_others(root, os.path.relpath(error.filename, root), error)\n",
        "        if not isinstance(error, FileNotFoundError):\n            raise error\n",
        SHUT,
    ),
    Mutant(
        "shut-folders-of-a-sweep-are-passed-over",
        "A folder of a sweep that may not be read counts as empty, and its networks are trained again.",
        "store/local.py",
        "    if own or error.errno not in _NOT_OPEN or (not linked and _within_sweep(root, path) is not None):\n",
        "    if own or error.errno not in _NOT_OPEN:\n",
        SHUT,
    ),
    Mutant(
        "shut-folders-unnoted",
        "verify does not say that it could not look into a folder.",
        "verify/store.py",
        "local.shut(root.folder) if root.folder is not None else ()",
        "()",
        SHUT,
    ),
    Mutant(
        "specs-of-others-must-be-readable",
        "A pipe or a link of the name spec.json in another's folder blocks every command.",
        "store/existing.py",
        "        if root.folder is None:\n            raise\n        spec",
        "        raise\n        spec",
        LINKS,
    ),
    Mutant(
        "anothers-links-are-distsims",
        "A link out of the store of the name pairs, beside the sweeps, blocks every command.",
        "store/local.py",
        "    if inner is None and not os.path.isdir(root / _LEASE):",
        "    if inner is None:",
        LINKS,
    ),
    Mutant(
        "links-to-themselves-block",
        "A link that leads to itself blocks every command.",
        "store/local.py",
        "        return error.errno == errno.ELOOP\n",
        "        return False\n",
        LINKS,
    ),
    Mutant(
        "files-that-cannot-be-looked-at-block",
        "A link in a sweep's folder that leads to itself ends every listing.",
        "store/local.py",
        "            except OSError as error:  # removed meanwhile",
        "            except FileNotFoundError as error:  # removed meanwhile",
        LINKS,
    ),
    Mutant(
        "study-json-hides-a-store",
        "A study.json of somebody else's makes a store a published study, which is damaged.",
        "store/existing.py",
        " and not problems_in(Storage(folder))",
        "",
        (PLACES + "test_a_study_json_of_others_does_not_hide_a_store",),
    ),
    Mutant(
        "files-in-the-way-unnamed",
        "A file in the place of a folder ends a sweep with an error of the system's that names another path.",
        "store/storage.py",
        "if self.folder is None or (there := local.in_the_way(self.folder, inside)) is None:",
        "if (there := None) is None:",
        ("store/test_storage.py::test_a_file_in_the_place_of_a_folder_is_named",),
    ),
    Mutant(
        "files-in-the-way-unseen-beside-sweeps",
        "verify calls a store whole, and a file in the place of its figures stops the next command.",
        "verify/store.py",
        "total + _in_the_way(root, sizes) + _beside",
        "total + _beside",
        VERIFIED,
    ),
    Mutant(
        "files-in-the-way-unseen-in-sweeps",
        "verify calls a sweep whole, and a file in the place of its results stops the next command.",
        "verify/store.py",
        "        total += _in_the_way(root, of_sweep, name)\n",
        "",
        VERIFIED,
    ),
    Mutant(
        "repair-writes-where-no-sweep-is",
        "distsim repair makes a folder lease in any folder that somebody names by mistake.",
        "cli/checking.py",
        "    require_sweeps(root, problems)  # before the lease, which writes into the folder\n",
        "",
        ("verify/test_repair.py::test_a_folder_without_a_sweep_is_left_as_it_is",),
    ),
)

VANISHED = (
    Mutant(
        "vanished-stores-are-written-into",
        "A sweep whose disk is unmounted goes on, and begins another store in the empty folder.",
        "store/storage.py",
        '        if not path.startswith("lease/"):  # its holder has looked\n            self.require_there()\n',
        "",
        GONE,
    ),
    Mutant(
        "vanished-stores-begin-with-a-folder",
        "Looking at a sweep of a store that has gone makes its folder anew.",
        "store/storage.py",
        "        self._require_inside(prefix)\n        self.require_there()\n",
        "        self._require_inside(prefix)\n",
        GONE,
    ),
    Mutant(
        "vanished-stores-are-taken-over",
        "A driver whose store has gone says nothing of it before it replaces a table.",
        "store/lease.py",
        "        self.check_there()\n        if self.lost:\n",
        "        if self.lost:\n",
        GONE,
    ),
    Mutant(
        "beats-bring-a-store-back",
        "A driver's sign of life begins a store in the place of one that has gone.",
        "store/lease.py",
        "if self._vanished():  # a beat would bring back a store that has gone",
        "if False:",
        GONE,
    ),
    Mutant(
        "the-last-beat-brings-a-store-back",
        "A driver that leaves a store that has gone begins it anew with its last word.",
        "store/lease.py",
        "            if self._gone():\n",
        "            if False:\n",
        GONE,
    ),
    Mutant(
        "written-after-the-lease",
        "What ends after the driver has left a store that has gone begins it anew.",
        "store/lease.py",
        "                self._root.lease = self  # so that nothing is written by what ends after this, either\n",
        "                pass\n",
        GONE,
    ),
    Mutant(
        "workers-go-on-without-a-store",
        "On Ray a sweep goes on when its store has gone, and its workers begin it anew.",
        "sweep/on_ray/engine.py",
        "        self.root.require_there()\n        if self._watch",
        "        if self._watch",
        (RAY + "test_a_store_that_has_gone_ends_tune_at_once",),
    ),
    Mutant(
        "tune-cleans-up-a-vanished-store",
        "Tune saves its state in the place of a store that has gone.",
        "sweep/on_ray/trials.py",
        "        except (ClusterLost, StoreGone) as error:\n",
        "        except ClusterLost as error:\n",
        (RAY + "test_a_store_that_has_gone_ends_tune_at_once",),
    ),
    Mutant(
        "a-vanished-store-is-called-a-lost-cluster",
        "A sweep on Ray whose store has gone says that its cluster is lost.",
        "sweep/on_ray/engine.py",
        "raise lost.__cause__ or ClusterLost(str(lost)) from None",
        "raise ClusterLost(str(lost)) from None",
        (RAY + "test_a_store_that_has_gone_is_not_called_a_lost_cluster",),
    ),
    Mutant(
        "paused-without-a-store",
        "A paused sweep waits for ever when its store has gone.",
        "sweep/heeding.py",
        "        except (StoreInUse, StoreGone):\n",
        "        except StoreInUse:\n",
        ("store/test_control.py::test_who_waits_is_told_that_the_store_has_gone",),
    ),
)

KINDS = (
    Kind("What is another's in a store blocks nothing", OF_OTHERS),
    Kind("A store that vanishes ends the work", VANISHED),
)
