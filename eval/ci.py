"""Policy decisions as JUnit XML for CI and as Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from searchlora.eval.comparison import Comparison
from searchlora.eval.formatting import markdown_text, printable
from searchlora.eval.policy import RuleResult
from searchlora.eval.report.blocks import markdown
from searchlora.eval.report.sections import rules_section
from searchlora.eval.tables import to_markdown
from searchlora.files import atomic_text


def write_junit(path: str | Path, name: str, results: Sequence[RuleResult]) -> None:
    """Write a JUnit XML file with a test case per rule; a broken rule is a failure. The write is atomic."""
    failed = sum(not result.passed for result in results)
    name = printable(name)
    suite = ElementTree.Element("testsuite", name=name, tests=str(len(results)), failures=str(failed), errors="0")
    for result in results:
        rule, summary = printable(result.rule), printable(result.summary)
        case = ElementTree.SubElement(suite, "testcase", classname=f"searchlora.policy.{name}", name=rule)
        if result.passed:
            ElementTree.SubElement(case, "system-out").text = summary
        else:
            ElementTree.SubElement(case, "failure", message=printable(result.finding)).text = f"{summary}."
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    with atomic_text(Path(path)) as out:
        out.write(ElementTree.tostring(root, encoding="unicode", xml_declaration=False) + "\n")


def summary_markdown(title: str, comparison: Comparison, results: Sequence[RuleResult], reason: str = "") -> str:
    """Markdown summary: a heading with the verdict, the rules, and the tables of figures in a folded section.

    Args:
        reason: The reason given for a promotion even against rules; empty: none.
    """
    broken = [result for result in results if not result.passed]
    forced = bool(reason and broken)  # a reason that was not needed forced nothing
    outcome = "promoted by force" if forced else "refused"
    verdict = f"{outcome}, {len(broken)} of {len(results)} rules broken" if broken else "passes"
    parts = [f"### {markdown_text(title)}: {verdict}"]
    if forced:
        parts.append(f"**Promoted by force:** {markdown_text(reason)}")
    if results:
        broken_first = sorted(results, key=lambda result: result.passed)
        parts.append(markdown([rules_section(broken_first)]).rstrip())
    parts.append(f"<details><summary>Figures</summary>\n\n{to_markdown(comparison)}\n</details>")
    return "\n\n".join(parts) + "\n"
