"""The page of `pellucid explain`: a number is changed, and all that follows from it is what torch computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from playwright.sync_api import Locator, Page, expect

from pellucid.viewer.lesson.explain import words_for_random_tokens
from pellucid.viewer.lesson.page import explain_page
from pellucid.viewer.lesson.steps import Lesson, notebook_lessons
from tests.browser.conftest import Watched
from tests.browser.test_access import faults

LESSONS = notebook_lessons(tokens=5, dim=3, context=4, seed=1)


@pytest.fixture
def address(tmp_path: Path) -> str:
    path = tmp_path / "explain.html"
    path.write_text(
        explain_page([(lesson, words_for_random_tokens(lesson, 1)) for lesson in LESSONS]), encoding="utf-8"
    )
    return path.as_uri()


def table(page: Page, name: str) -> Locator:
    return page.locator(f'table[aria-label^="{name}, "]')


def cell(page: Page, name: str, index: int) -> Locator:
    return table(page, name).locator(f'td[data-index="{index}"]')


def numbers(page: Page, name: str) -> torch.Tensor:
    """A matrix as it stands on the page."""
    rows = table(page, name).locator("tbody tr").all()
    return torch.tensor([[float(text) for text in row.locator("td[data-index]").all_inner_texts()] for row in rows])


def attended(lesson: Lesson, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Self-attention of other tokens."""
    query, key, value = (tokens @ projection.weight for projection in lesson.projections)
    weights = torch.softmax(query @ key.T / query.shape[-1] ** 0.5, -1)
    return {"Q": query, "K": key, "V": value, "weights": weights, "attended": weights @ value}


def agree(page: Page, tokens: torch.Tensor) -> None:
    for name, expected in attended(LESSONS[0], tokens).items():
        torch.testing.assert_close(numbers(page, name), expected, rtol=0, atol=6e-4)


def test_all_follows_a_number_that_is_changed(watched: Watched, address: str) -> None:
    watched.context.set_offline(True)
    page = watched.open(address)
    tokens = LESSONS[0].tokens.clone()
    agree(page, tokens)
    cell(page, "x", 4).click()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Shift+ArrowUp")
    tokens[1, 1] += 1.1
    agree(page, tokens)
    page.keyboard.press("Enter")
    page.keyboard.type("-2,5")
    tokens[2, 1] = -2.5
    agree(page, tokens)
    watched.shoot(page, "explain")
    page.keyboard.press("Escape")
    tokens[2, 1] = LESSONS[0].tokens[2, 1]
    agree(page, tokens)
    page.get_by_role("button", name="Put all numbers back").click()
    agree(page, LESSONS[0].tokens)


def test_the_slider_moves_the_chosen_number(watched: Watched, address: str) -> None:
    page = watched.open(address)
    cell(page, "W_q", 0).click()
    page.get_by_role("slider", name="the chosen number").fill("1.25")
    expect(cell(page, "W_q", 0)).to_have_text("1.250")
    expected = LESSONS[0].tokens[:, 0] * (1.25 - LESSONS[0].projections[0].weight[0, 0]) + LESSONS[0].query[:, 0]
    torch.testing.assert_close(numbers(page, "Q")[:, 0], expected, rtol=0, atol=6e-4)


def test_what_is_no_number_changes_nothing(watched: Watched, address: str) -> None:
    page = watched.open(address)
    cell(page, "x", 0).click()
    page.keyboard.type("many")
    expect(page.get_by_role("textbox", name="x, row 0, column 0")).to_have_attribute("aria-invalid", "true")
    torch.testing.assert_close(numbers(page, "Q"), LESSONS[0].query, rtol=0, atol=6e-4)


def test_what_made_a_number_lights_up(watched: Watched, address: str) -> None:
    page = watched.open(address)
    cell(page, "attended", 7).hover()  # row 2, column 1
    for name, lit in {"weights": [2 * 5 + key for key in range(5)], "V": [3 * key + 1 for key in range(5)]}.items():
        indices = [int(one.get_attribute("data-index") or -1) for one in table(page, name).locator(".pl-x-lit").all()]
        assert indices == lit
    expect(page.get_by_role("status")).to_contain_text("attended[2, 1] = weights[2] · V[:, 1] = ")
    cell(page, "scores", 0).focus()
    page.keyboard.press("ArrowRight")
    page.mouse.move(0, 0)
    expect(page.get_by_role("status")).to_contain_text("scores[0, 1] = Q[0] · K[1] / √3")


def test_cross_attention_has_a_second_sequence(watched: Watched, address: str) -> None:
    page = watched.open(address)
    page.get_by_role("button", name="Cross-attention").click()
    torch.testing.assert_close(numbers(page, "context"), LESSONS[1].context, rtol=0, atol=6e-4)
    torch.testing.assert_close(numbers(page, "weights"), LESSONS[1].weights, rtol=0, atol=6e-4)
    for row in table(page, "weights").locator(".pl-x-sum").all():
        expect(row).to_have_text("1.000")


def test_no_fault_in_light_colours(watched: Watched, address: str) -> None:
    assert faults(watched.open(address)) == []


def test_no_fault_in_dark_colours(dark: Watched, address: str) -> None:
    assert faults(dark.open(address)) == []


@pytest.mark.parametrize("width", [380, 1400])
def test_nothing_is_wider_than_the_window(watched: Watched, address: str, width: int) -> None:
    page = watched.open(address, width=width, height=800)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    watched.shoot(page, f"explain-{width}")
