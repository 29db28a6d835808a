"""Reading an environment: the same list as pip, and facts about sound and broken distributions."""

import importlib.metadata
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import msgspec
import pytest

from understudy.demo import environment, requirements, versions
from understudy.demo.environment import DistributionRef, Facts, Files, PackageNotFound, SizeChange
from understudy.demo.markers import canonical
from understudy.demo.requirements import Graph, Pin, Unused
from understudy.demo.testing import SOUND, Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site-packages")


def _listed(refs: tuple[DistributionRef, ...]) -> set[tuple[str, str]]:
    return {(canonical(ref.name), ref.version) for ref in refs if ref.listed}


def _pip(*options: str) -> set[tuple[str, str]]:
    """What `pip list` shows. It runs elsewhere, so that the working directory adds nothing."""
    command = [sys.executable, "-m", "pip", *options]
    environ = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(command, capture_output=True, check=True, timeout=300, env=environ)
    return {(canonical(one["name"]), one["version"] or "") for one in json.loads(done.stdout)}


def _problems(site: Site, name: str) -> list[tuple[str, str]]:
    return [(problem.kind, problem.detail) for problem in environment.facts(name, site.path).problems]


# The list


def test_this_interpreter_lists_what_pip_lists() -> None:
    assert _listed(environment.distributions()) == _pip("list", "--format", "json")


def test_a_new_venv_lists_what_pip_lists(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    purelib = next((tmp_path / "venv").glob("**/site-packages"))
    site = Site(purelib)
    site.plant("First_One", "1.0")
    site.plant("second", "2.0rc1")
    expected = {("first-one", "1.0"), ("second", "2.0rc1")}
    assert _listed(environment.distributions(site.path)) == expected
    assert _pip("--python", str(tmp_path / "venv"), "list", "--format", "json") == expected


def _options(path: list[str]) -> list[str]:
    return [option for entry in path for option in ("--path", entry)]


def test_an_untidy_environment_lists_what_pip_lists(site: Site, tmp_path: Path) -> None:
    site.plant("Sound.Name", "1.0")
    site.plant("local", "1.0+build.1")
    site.plant("spelled", "v1.0-RC2", folder="spelled-1.0rc2.dist-info")
    site.plant("twice", "1.0")
    site.plant("twice", "2.0")
    site.plant("other-name", "4.0", folder="folder_name-4.0.dist-info")
    site.plant("leftover", "1.0", folder="~eftover-1.0.dist-info")
    site.plant("argparse", "1.4.0")
    site.write("egg_folder-8.0-py3.11.egg-info/PKG-INFO", "Name: egg-folder\nVersion: 8.0\n\n")
    site.write("egg_file-9.0.egg-info", "Metadata-Version: 1.1\nName: egg-file\nVersion: 9.0\n\n")
    site.write(".dist-info/METADATA", "Summary: nobody\n\n")
    linked = Site(tmp_path / "sources")
    linked.write("linked.egg-info/PKG-INFO", "Name: linked\nVersion: 0.1\n\n")
    site.write("linked.egg-link", f"{linked.root}\n.\n")
    second = Site(tmp_path / "second")
    second.plant("Sound.Name", "0.9")
    second.plant("only-here", "1.0")
    path = [*site.path, *second.path]
    listed = _listed(environment.distributions(path))
    assert listed == _pip("list", "--format", "json", *_options(path))
    assert {"sound-name", "twice", "egg-folder", "egg-file", "linked", "only-here"} <= {name for name, _ in listed}


def test_broken_metadata_is_listed_as_the_latest_pip_lists_it(site: Site) -> None:
    site.plant("other-name", "3.0", folder="folder_name-4.0.dist-info")
    site.plant("invalid", "not a version", folder="invalid-x_y.dist-info")
    site.write("empty-5.0.dist-info/RECORD", "")
    site.write("nameless-6.0.dist-info/METADATA", "Metadata-Version: 2.1\nVersion: 6.0\n\n")
    site.write("versionless-7.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: versionless\n\n")
    site.write("no_version.dist-info/METADATA", "Name: no-version\n\n")
    listed = _listed(environment.distributions(site.path))
    assert listed == {
        ("other-name", "4.0"),
        ("invalid", "not a version"),
        ("empty", "5.0"),
        ("nameless", "6.0"),
        ("versionless", "7.0"),
        ("no-version", ""),
    }
    if versions.contains(">=26", importlib.metadata.version("pip")):  # older ones leave some out, or crash
        assert listed == _pip("list", "--format", "json", *_options(site.path))


def test_the_list_is_sorted_and_names_broken_entries_by_folder(site: Site) -> None:
    site.plant("Zebra")
    site.plant("ant")
    site.plant("gone", folder="~one-1.0.dist-info")
    site.write(".dist-info/METADATA", "Summary: nobody\n\n")
    assert environment.distributions(site.path) == (
        DistributionRef("ant", "ant", "1.0"),
        DistributionRef("zebra", "Zebra", "1.0"),
        DistributionRef(".dist-info", ".dist-info", "", False, "no valid name in folder or metadata"),
        DistributionRef("~one-1.0.dist-info", "gone", "1.0", False, "no valid name in folder or metadata"),
    )


def test_a_change_is_seen_at_once(site: Site) -> None:
    for count in range(5):
        assert len(environment.distributions(site.path)) == count
        site.plant(f"number{count}")


def test_a_missing_folder_and_a_plain_file_on_the_path_hold_nothing(site: Site) -> None:
    text = site.write("notes.txt", "not a zip archive")
    assert environment.distributions([str(site.root / "nowhere"), str(text)]) == ()


def test_the_working_directory_is_not_searched(monkeypatch: pytest.MonkeyPatch, site: Site) -> None:
    site.plant("checkout")
    monkeypatch.chdir(site.root)
    for first in ("", os.getcwd()):
        monkeypatch.setattr(sys, "path", [first, str(site.root / "elsewhere")])
        assert environment.search_path() == (str(site.root / "elsewhere"),)
        assert environment.distributions() == ()


# Finding one


@pytest.mark.parametrize("name", ["Zope.Interface", "zope-interface", "ZOPE__interface"])
def test_a_name_is_found_in_any_spelling_of_pep_503(site: Site, name: str) -> None:
    site.plant("zope.interface", folder="zope_interface-1.0.dist-info")
    assert environment.facts(name, site.path).name == "zope.interface"
    assert environment.files(name, site.path).key == "zope-interface"


@pytest.mark.parametrize("name", ["attrs ", " attrs", "attrs\n", "attr", "", "attrs-1.0.dist-info"])
def test_a_name_is_not_stripped_or_guessed_and_the_error_quotes_it(site: Site, name: str) -> None:
    site.plant("attrs")
    for read in (environment.facts, environment.files):
        with pytest.raises(PackageNotFound) as caught:
            read(name, site.path)
        assert str(caught.value) == f"no distribution named {name!r}"
        assert caught.value.name == name


def test_every_key_and_name_of_the_list_can_be_asked_for(site: Site) -> None:
    site.plant("other-name", folder="folder_name-1.0.dist-info")
    site.plant("gone", folder="~one-1.0.dist-info")
    site.write("empty-5.0.dist-info/RECORD", "")
    for ref in environment.distributions(site.path):
        assert environment.facts(ref.key, site.path).key == ref.key
        assert environment.files(ref.key, site.path).key == ref.key
    assert environment.facts("Other_Name", site.path).key == "folder-name"


# Facts


def test_facts_of_a_sound_distribution(site: Site) -> None:
    headers = (
        "Summary: Does things",
        "License-Expression: MIT OR Apache-2.0",
        "License-File: LICENSE",
        "License: MIT",
        "Classifier: License :: OSI Approved :: MIT License",
        "Classifier: Framework :: AnyIO",
        "Requires-Python: >=3.8",
        "Requires-Dist: idna[all] >=2.5, <4 ; os_name == 'posix'",
        "Requires-Dist: rich ; extra == 'cli'",
    )
    site.plant("Demo-Thing", "1.2", headers=headers)
    facts = environment.facts("demo_thing", site.path)
    assert (facts.key, facts.name, facts.version, facts.summary) == ("demo-thing", "Demo-Thing", "1.2", "Does things")
    assert (facts.installer, facts.requested, facts.editable) == ("by-hand", True, False)
    assert (facts.requires_python, facts.problems, facts.copies) == (">=3.8", (), ())
    assert str(facts.licence) == "MIT OR Apache-2.0"
    assert facts.licence.classifiers == ("License :: OSI Approved :: MIT License",)
    assert (facts.licence.line, facts.licence.files) == ("MIT", 1)
    assert [(str(one), one.marker) for one in facts.requires] == [
        ("idna[all]>=2.5,<4", "os_name == 'posix'"),
        ("rich", "extra == 'cli'"),
    ]


def test_facts_and_files_survive_their_own_json() -> None:
    for ref in environment.distributions():
        facts, files = environment.facts(ref.key), environment.files(ref.key)
        assert msgspec.json.decode(msgspec.json.encode(facts), type=Facts) == facts
        assert msgspec.json.decode(msgspec.json.encode(files), type=Files) == files


def test_all_at_once_equals_one_by_one() -> None:
    refs = environment.distributions()
    assert environment.read_all() == tuple(environment.facts(ref.key) for ref in refs)


def test_a_licence_text_is_cut_to_its_first_line(site: Site) -> None:
    site.plant("wordy", headers=("License: The MIT License", "        Permission is granted", "        to anyone"))
    site.plant("unknown", headers=("License: UNKNOWN",))
    licence = environment.facts("wordy", site.path).licence
    assert (licence.line, licence.whole) == ("The MIT License", False)
    assert str(environment.facts("unknown", site.path).licence) == ""


def test_requirements_of_an_egg_info_come_from_requires_txt(site: Site) -> None:
    site.write("old.egg-info/PKG-INFO", "Name: old\nVersion: 1.0\n\n")
    site.write("old.egg-info/requires.txt", "idna>=2\n\n[cli]\nrich\n")
    requires = environment.facts("old", site.path).requires
    assert [(str(one), one.marker) for one in requires] == [("idna>=2", ""), ("rich", 'extra == "cli"')]


def test_a_folder_without_metadata_is_listed_by_its_name_with_one_problem(site: Site) -> None:
    site.write("empty-5.0.dist-info/RECORD", "")
    assert _problems(site, "empty") == [("missing-metadata", "empty-5.0.dist-info has no METADATA file")]
    assert environment.facts("empty", site.path).version == "5.0"


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("Version: 1.0\n\n", ("missing-name", "METADATA has no Name")),
        ("Name: odd\n\n", ("missing-version", "METADATA has no Version")),
        ("Name: odd\nVersion: one\n\n", ("invalid-version", "'one' is not a version")),
        ("Name: even\nVersion: 1.0\n\n", ("name-mismatch", "METADATA says 'even', the folder 'odd'")),
        ("Name: odd\nVersion: 1.1\n\n", ("version-mismatch", "METADATA says '1.1', the folder '1.0'")),
        (
            "Name: odd\nVersion: 1.0\nRequires-Python: <3\n\n",
            ("python-mismatch", f"needs Python <3, this is {'.'.join(map(str, sys.version_info[:3]))}"),
        ),
        (
            "Name: odd\nVersion: 1.0\nRequires-Python: three\n\n",
            ("invalid-requirement", "Requires-Python: not a version specifier: 'three'"),
        ),
        (
            "Name: odd\nVersion: 1.0\nRequires-Dist: x @\n\n",
            ("invalid-requirement", "cannot read requirement 'x '"),
        ),
        (
            "Name: odd\nVersion: 1.0\nRequires-Dist: x; os_name ~ 'nt'\n\n",
            ("invalid-requirement", "cannot read requirement \"x; os_name ~ 'nt'\""),
        ),
    ],
)
def test_each_fault_of_the_metadata_is_one_problem(site: Site, metadata: str, expected: tuple[str, str]) -> None:
    site.write("odd-1.0.dist-info/METADATA", metadata)
    site.write("odd-1.0.dist-info/RECORD", "")
    assert _problems(site, "odd") == [expected]


def test_metadata_in_another_encoding_is_read_as_far_as_it_goes(site: Site) -> None:
    site.write("latin-1.0.dist-info/METADATA", "Name: latin\nVersion: 1.0\nSummary: caf\xe9\n\n".encode("latin-1"))
    site.write("latin-1.0.dist-info/RECORD", "")
    assert _problems(site, "latin") == [("not-utf8", "METADATA is not UTF-8")]
    assert environment.facts("latin", site.path).version == "1.0"


def test_a_dist_info_without_record_is_a_problem_and_an_egg_info_is_not(site: Site) -> None:
    (site.plant("bare") / "RECORD").unlink()
    site.write("egg-1.0.egg-info/PKG-INFO", "Name: egg\nVersion: 1.0\n\n")
    assert [kind for kind, _ in _problems(site, "bare")] == ["missing-record"]
    assert _problems(site, "egg") == []
    assert environment.files("bare", site.path) == Files("bare")


def test_a_dash_in_a_version_is_an_underscore_in_the_folder_and_no_mismatch(site: Site) -> None:
    site.plant("dashed", "1.0-1", folder="dashed-1.0_1.dist-info")
    assert _problems(site, "dashed") == []


# Copies


def test_two_folders_of_one_name_are_copies_whether_in_one_place_or_two(site: Site, tmp_path: Path) -> None:
    site.plant("twice", "1.0")
    site.plant("twice", "2.0")
    second = Site(tmp_path / "second")
    second.plant("Twice", "3.0")
    both = environment.facts("twice", [*site.path, *second.path])
    assert both.copies == ("Twice-3.0.dist-info", "twice-1.0.dist-info", "twice-2.0.dist-info")
    assert environment.facts("twice", second.path).copies == ()


def test_one_folder_reached_twice_is_no_copy(site: Site, tmp_path: Path) -> None:
    site.plant("once")
    link = tmp_path / "link"
    link.symlink_to(site.root, target_is_directory=True)
    assert environment.facts("once", [*site.path, *site.path, str(link)]).copies == ()


def test_the_egg_info_beside_the_sources_of_a_development_install_is_no_copy(site: Site, tmp_path: Path) -> None:
    project = Site(tmp_path / "project")
    project.write("src/thing.egg-info/PKG-INFO", "Name: thing\nVersion: 1.0\n\n")
    info = site.plant("thing")
    told = {"url": project.root.as_uri(), "dir_info": {"editable": True}}
    (info / "direct_url.json").write_text(json.dumps(told))
    for path in ([*site.path, str(project.root / "src")], [str(project.root / "src"), *site.path]):
        assert environment.facts("thing", path).copies == ()
    assert environment.facts("thing", site.path).editable
    for broken in ("not JSON", "null", '{"url": "file://["}'):
        (info / "direct_url.json").write_text(broken)
        assert len(environment.facts("thing", [*site.path, str(project.root / "src")]).copies) == 2


# Files


def test_files_counts_what_record_lists_without_compiled_files(site: Site) -> None:
    site.plant("pack", files={"pack/__init__.py": "", "pack/data.txt": "12345"})
    files = environment.files("pack", site.path)
    info = site.root / "pack-1.0.dist-info"
    sizes = sum((info / name).stat().st_size for name in ("METADATA", "INSTALLER", "REQUESTED"))
    assert files == Files("pack", recorded=True, files=6, bytes=5 + sizes)


def test_missing_and_changed_files_are_named(site: Site) -> None:
    site.plant("pack", files={"pack/a.py": "", "pack/b.py": "", "pack/c.txt": "12345"})
    (site.root / "pack/b.py").unlink()
    site.write("pack/c.txt", "1234567")
    files = environment.files("pack", site.path)
    assert (files.missing, files.missing_count) == (("pack/b.py",), 1)
    assert (files.changed, files.changed_count) == ((SizeChange("pack/c.txt", 5, 7),), 1)


def test_many_missing_files_are_counted_and_a_sample_is_named(site: Site) -> None:
    names = [f"pack/f{number:02}.py" for number in range(30)]
    site.plant("pack", files=dict.fromkeys(names, "x"))
    for name in names:
        (site.root / name).unlink()
    files = environment.files("pack", site.path)
    assert (files.missing, files.missing_count) == (tuple(names[:20]), 30)


def test_a_record_with_odd_rows_is_read_as_far_as_it_goes(site: Site) -> None:
    site.plant("pack")
    site.write("pack-1.0.dist-info/RECORD", '\n"a,b.py",,x\n,,\npack.py\nno\0nul.py,,3\n"open')
    files = environment.files("pack", site.path)
    assert files.files == 4
    assert files.missing == ("a,b.py", "no\0nul.py", "open")
    site.write("pack-1.0.dist-info/RECORD", f"pack.py,,{'9' * 5000}\n{'x' * 200_000},,1\nlost.py,,1\n")
    assert environment.files("pack", site.path) == Files("pack", recorded=True, files=1)


def test_distributions_in_a_zip_archive_are_read_and_their_files_left_alone(site: Site) -> None:
    import zipfile

    site.plant("zipped")
    archive = site.root / "bundle.zip"
    with zipfile.ZipFile(archive, "w") as bundle:
        for name in ("METADATA", "RECORD", "INSTALLER"):
            bundle.write(site.root / f"zipped-1.0.dist-info/{name}", f"zipped-1.0.dist-info/{name}")
    assert environment.facts("zipped", [str(archive)]).version == "1.0"
    files = environment.files("zipped", [str(archive)])
    assert (files.recorded, files.missing_count) == (True, 0)
    os.rename(archive, site.root / "bundle-1.0-py3-none-any.whl")
    assert environment.distributions([str(site.root / "bundle-1.0-py3-none-any.whl")]) == ()


# Who requires whom


def test_what_nothing_requires_and_nobody_requested_is_unused(site: Site) -> None:
    site.plant("app", headers=(*SOUND, "Requires-Dist: lib", "Requires-Dist: other; sys_platform == 'nowhere'"))
    site.plant("lib", requested=False)
    site.plant("other", requested=False)
    site.plant("selfish", requested=False, headers=(*SOUND, "Requires-Dist: selfish[more]"))
    assert requirements.unused(site.path) == (Unused("other"), Unused("selfish"))


def test_a_requirement_under_an_extra_counts_when_another_asks_for_the_extra(site: Site) -> None:
    optional = (*SOUND, "Requires-Dist: dep>=2; extra == 'x_y'", "Requires-Dist: far; extra == 'z'")
    site.plant("lib", headers=optional)
    site.plant("dep", "1.0", requested=False)
    site.plant("far", requested=False)
    assert requirements.graph(site.path) == Graph(unused=(Unused("dep", ("lib[x-y]",)), Unused("far", ("lib[z]",))))
    site.plant("app", headers=(*SOUND, "Requires-Dist: lib[X.Y]"))
    assert requirements.graph(site.path) == Graph(
        unused=(Unused("far", ("lib[z]",)),), pins=(Pin("lib", "dep>=2", "dep", "incompatible", "1.0"),)
    )


def test_an_extra_that_asks_for_another_extra_of_itself_is_followed(site: Site) -> None:
    site.plant("lib", headers=(*SOUND, "Requires-Dist: lib[a]; extra == 'all'", "Requires-Dist: dep; extra == 'a'"))
    site.plant("dep", requested=False)
    site.plant("app", headers=(*SOUND, "Requires-Dist: lib[all]"))
    assert requirements.graph(site.path) == Graph()


def test_missing_and_incompatible_requirements_are_pins(site: Site) -> None:
    site.plant("app", headers=(*SOUND, "Requires-Dist: Gone", "Requires-Dist: lib<2", "Requires-Dist: fine"))
    site.plant("lib", "2.0")
    site.plant("fine")
    assert requirements.pins(site.path) == (
        Pin("app", "Gone", "gone", "missing"),
        Pin("app", "lib<2", "lib", "incompatible", "2.0"),
    )


def test_a_broken_entry_neither_requires_nor_satisfies(site: Site) -> None:
    site.plant("lib", folder="~ib-1.0.dist-info", headers=(*SOUND, "Requires-Dist: nowhere"), requested=False)
    site.plant("app", headers=(*SOUND, "Requires-Dist: lib"))
    assert requirements.graph(site.path) == Graph(pins=(Pin("app", "lib", "lib", "missing"),))


def test_no_result_names_a_folder_of_this_machine(site: Site) -> None:
    site.plant("app", headers=(*SOUND, f"Requires-Dist: lib @ {site.root.as_uri()}", "Requires-Dist: gone"))
    site.plant("app", "2.0")
    (site.root / "app.py").unlink()
    results = [
        *environment.distributions(site.path),
        *environment.read_all(site.path),
        environment.files("app", site.path),
        requirements.graph(site.path),
    ]
    assert str(site.root.parent) not in msgspec.json.encode(results).decode()
