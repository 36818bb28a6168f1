# SPDX-License-Identifier: MIT
"""The pages in a real browser: nothing asked for, nothing to complain of, tables that work."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from kraken_bids.report.pages import write_group_page, write_participant_page
from tests.report.browser import find_browser, started

WIDTHS = {"phone": 360, "screen": 1600}
PAGES = ("participant", "group")


@pytest.fixture(scope="module")
def browser():
    """A running Chromium; its profile lies in a short folder, for sockets have short names."""
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium is installed (apt: chromium): pages are not looked at")
    folder = Path(tempfile.mkdtemp(prefix="kb"))
    with started(program, folder) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def pages(cohort, tmp_path_factory):
    """Both kinds of pages, as files."""
    output_dir, dataset_dir = cohort
    table = tmp_path_factory.mktemp("study") / "participants.tsv"
    table.write_text("participant_id\tsite\tage\nsub-01\tA\t20\nsub-02\tB\t31\nsub-03\tA\t40\n")
    participant = write_participant_page(output_dir, "01")
    group = write_group_page(dataset_dir, output_dir, participants_file=table)
    found = {"participant": participant, "group": group}
    yield found
    for file in found.values():
        file.unlink()


@pytest.fixture
def open_page(browser, pages):
    """Open a kind of page; tabs are closed after the test."""
    tabs = []

    def opened(kind, **how):
        tabs.append(browser.open(pages[kind], **how))
        return tabs[-1]

    yield opened
    for tab in tabs:
        tab.close()


#: The first column of the cohort's table, as shown, and all of another table.
COHORT = "Array.from(document.querySelector('#cohort table').tBodies[0].rows)"
SHOWN = f"{COHORT}.filter(row => row.offsetHeight).map(row => row.cells[0].textContent)"


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("kind", PAGES)
def test_pages_open_without_a_complaint_or_request(open_page, pages, kind, width):
    tab = open_page(kind, width=width)
    tab.show_all()
    assert tab.complaints() == []
    assert tab.requests() == [pages[kind].as_uri()]


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("kind", PAGES)
def test_pictures_are_shown_and_nothing_is_wider_than_the_page(open_page, kind, width):
    tab = open_page(kind, width=width)
    tab.show_all()
    sizes = tab.ask("""Array.from(document.images).filter(image => !image.closest('.away'))
        .map(image => [image.naturalWidth,
                       image.closest('figure').getBoundingClientRect().right])""")
    assert sizes
    assert all(natural > 100 and 0 < right <= width for natural, right in sizes)
    assert tab.ask("document.documentElement.scrollWidth") <= width


def test_a_script_of_others_is_not_run(open_page):
    tab = open_page("group")
    tab.ask("""(() => { const script = document.createElement('script');
        script.textContent = 'window.mischief = 1'; document.body.append(script); })()""")
    assert tab.ask("typeof window.mischief") == "undefined"
    assert any("Content Security Policy" in text for text in tab.complaints())


def test_tables_are_sorted_by_a_click_and_again_the_other_way(open_page):
    tab = open_page("group")
    head = "document.querySelector('#cohort table').tHead.rows[0].cells"
    place = tab.ask(f"Array.from({head}).findIndex(cell => cell.textContent === 'structural')")
    assert tab.ask(SHOWN) == ["sub-01", "sub-02", "sub-03"]
    tab.ask(f"{head}[{place}].querySelector('button').click()")
    assert tab.ask(SHOWN) == ["sub-03", "sub-01", "sub-02"]  # it alone has none
    assert tab.ask(f"{head}[{place}].ariaSort") == "ascending"
    tab.ask(f"{head}[0].querySelector('button').click()")
    tab.ask(f"{head}[0].querySelector('button').click()")
    assert tab.ask(SHOWN) == ["sub-03", "sub-02", "sub-01"]
    assert tab.ask(f"[{head}[0].ariaSort, {head}[{place}].ariaSort]") == ["descending", None]


@pytest.mark.parametrize("descending", [False, True])
def test_numbers_are_sorted_as_numbers_and_what_is_not_there_comes_last(open_page, descending):
    tab = open_page("group")
    tab.ask(f"""(() => {{ const values = ['10', 'n/a', '1,000'];
        {COHORT}.forEach((row, index) => {{ row.cells[1].textContent = values[index]; }});
        const button = document.querySelectorAll('#cohort table th')[1].querySelector('button');
        button.click(); if ({str(descending).lower()}) button.click(); }})()""")
    values = tab.ask(f"{COHORT}.map(row => row.cells[1].textContent)")
    assert values == (["1,000", "10", "n/a"] if descending else ["10", "1,000", "n/a"])


def test_tables_are_sorted_by_the_keyboard(open_page):
    tab = open_page("group")
    tab.ask("document.querySelector('#cohort .scroll').focus()")
    tab.press("Tab")
    assert tab.ask("document.activeElement.textContent") == "session"
    for _ in range(2):
        tab.press("Enter", text="\r")
    assert tab.ask(SHOWN) == ["sub-03", "sub-02", "sub-01"]


def test_rows_are_filtered_by_words_in_any_cell(open_page):
    tab = open_page("group")
    tab.ask("document.querySelector('#identification details').open = true")
    rows = "Array.from(document.querySelector('#identification tbody').rows)"
    tab.ask("document.querySelector('#identification input').focus()")
    tab.write("fusionSC  fcpcorr")
    shown = tab.ask(f"{rows}.filter(row => row.offsetHeight).map(row => row.textContent)")
    assert len(shown) == 1
    assert shown[0].startswith("fusionSCFCpcorr_fs86_hpf")
    said = tab.ask("document.querySelector('#identification [role=status]').textContent")
    assert said == f"1 of {tab.ask(f'{rows}.length')} rows"


def test_one_map_of_latents_is_shown_at_a_time_and_another_is_chosen(open_page):
    tab = open_page("group")
    shown = ("Array.from(document.querySelectorAll('#latents [data-name]'))"
             ".filter(part => part.offsetHeight).map(part => part.dataset.name)")  # fmt: skip
    select = "document.querySelector('#latents select')"
    names = tab.ask(f"Array.from({select}.options).map(option => option.text)")
    assert names[:2] == ["site", "age"]
    assert tab.ask(shown) == ["site"]
    tab.ask(f"{select}.value = 'age'; {select}.dispatchEvent(new Event('change'))")
    assert tab.ask(shown) == ["age"]
    without = open_page("group", scripts=False)
    assert without.ask(shown) == names
    printed = open_page("group", medium="print")
    assert printed.ask(shown) == names


@pytest.mark.parametrize("kind", PAGES)
def test_pages_are_whole_without_scripts(open_page, kind):
    with_scripts = open_page(kind)
    hidden = "document.querySelectorAll('.away').length"
    count = "[document.images.length, document.querySelectorAll('tr').length]"
    expected = with_scripts.ask(count)
    plain = open_page(kind, scripts=False)
    assert plain.ask(count) == expected
    assert plain.ask(hidden) == 0
    assert plain.ask("document.querySelectorAll('button, input, select').length") == 0


def test_on_paper_there_is_nothing_to_press(open_page):
    tab = open_page("group", medium="print")
    shown = tab.ask("Array.from(document.querySelectorAll('nav, input, select'))"
                    ".filter(part => part.offsetHeight).length")  # fmt: skip
    assert shown == 0
    assert tab.ask("document.querySelectorAll('nav, input').length") > 1


def test_on_paper_nothing_is_folded_away(open_page):
    hidden = """Array.from(document.querySelectorAll('details:not([open]) table'))
        .filter(table => !table.checkVisibility({contentVisibilityAuto: true})).length"""
    assert open_page("group").ask(hidden) > 0
    assert open_page("group", medium="print").ask(hidden) == 0


@pytest.mark.parametrize("kind", PAGES)
def test_on_paper_no_column_is_cut_off(open_page, kind):
    width = 700  # A4 and letter, without margins, are wider
    tab = open_page(kind, width=width, medium="print")
    right = """Array.from(document.querySelectorAll('table'),
        table => table.getBoundingClientRect().right)"""
    edges = tab.ask(right)
    assert edges
    assert max(edges) <= width
    assert max(open_page(kind, width=width).ask(right)) > width  # there a table is scrolled


def test_on_paper_two_pairs_of_connectomes_lie_side_by_side(open_page):
    tab = open_page("participant", width=700, medium="print")
    tops = tab.ask("Array.from(document.querySelectorAll('.grid.pairs figure'),"
                   " figure => figure.getBoundingClientRect().top)")  # fmt: skip
    assert len(tops) > 2
    assert tops[0] == tops[1] < tops[2]
