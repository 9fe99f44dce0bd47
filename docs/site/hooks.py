"""Make the site's front page of README.md, and bring in what pages show from elsewhere in the repository."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "results/published/README.md": "published/README.md",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and the figures of published studies, whose links lead from the repository's root."""
    for path, page in PAGES.items():
        text = (ROOT / path).read_text()
        if "/" in path:
            text = text.replace("](../../docs/", "](../")
        text = re.sub(r"\]\((?:docs/)?([\w./-]*)", lambda link: f"]({PAGES.get(link[1], link[1])}", text)
        text = text.replace("](LICENSE)", "](LICENSE.txt)").replace("](results/published/", "](published/")
        text = text.replace('src="results/published/', 'src="published/')
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "LICENSE.txt", abs_src_path=str(ROOT / "LICENSE")))
    for picture in sorted((ROOT / "results/published").rglob("*.png")):
        path = picture.relative_to(ROOT / "results").as_posix()
        files.append(File.generated(config, path, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Point links that lead out of docs/ to where `on_files` put their targets."""
    return markdown.replace("](../README.md", "](index.md").replace("](../results/published/", "](published/")
