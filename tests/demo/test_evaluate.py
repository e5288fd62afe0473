import re
import sys

import pytest
import torch

from pellucid.demo import evaluate, load_reader, train
from pellucid.demo.data.dates import LANGUAGE_CODES, Example, is_held_out
from pellucid.demo.data.languages import LANGUAGE_OF_CODE


@pytest.fixture(scope="module")
def reader():
    return load_reader()


@pytest.mark.slow
def test_ninety_nine_of_a_hundred_held_out_dates_are_read_exactly(reader):
    scores = [evaluate.score(reader, language, 200) for language in LANGUAGE_CODES]
    assert sum(score.exact for score in scores) / len(scores) >= 0.99
    assert min(score.exact for score in scores) >= 0.97  # of 200: within three deviations of 99 %


def test_a_score_counts_what_was_misread(reader, monkeypatch):
    right = evaluate.score(reader, "fr", 40)
    assert right.exact > 0.9
    monkeypatch.setattr(reader, "write", lambda source, lengths: ["1997-03-03$"] * len(source))
    wrong = evaluate.score(reader, "fr", 40)
    assert len(wrong.mistakes) == 40
    assert wrong.exact == 0.0
    assert all(answer == "1997-03-03" and is_held_out(example.date_text) for example, answer in wrong.mistakes)


def test_the_tables_show_each_language_and_all_together():
    mistake = (Example("3 mars 97", "1997-03-03", "fr", "3 mars 97"), "1997-03-30")
    results = [evaluate.Score("fr", 4, (mistake,)), evaluate.Score("ja", 4, ())]
    assert evaluate.markdown(results).splitlines()[2:] == [
        "| French | 4 | 75.00% |",
        "| Japanese | 4 | 100.00% |",
        "| **all** | 8 | 87.50% |",
    ]
    table = evaluate.table(results)
    assert table.row_count == 2
    assert [column.footer for column in table.columns] == ["all", "8", "87.50%"]


def test_the_command_prints_a_row_a_language(capsys):
    evaluate.main(["--count", "2", "--markdown", "--mistakes"])
    printed = capsys.readouterr().out
    for code in LANGUAGE_CODES:
        assert re.search(rf"\| {LANGUAGE_OF_CODE[code].name} \| 2 \| \d+\.\d\d% \|", printed)


def test_a_missing_file_is_named(capsys):
    with pytest.raises(SystemExit):
        evaluate.main(["--weights", "none.safetensors"])
    assert "--weights: there is no file 'none.safetensors'" in capsys.readouterr().err


@pytest.mark.parametrize("command", [evaluate, train])
def test_without_babel_there_is_help_and_one_line_that_says_what_is_missing(command, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "babel", None)
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])
    assert ended.value.code == 0
    with pytest.raises(SystemExit) as ended:
        command.main([])
    assert ended.value.code == 1
    assert capsys.readouterr().err.endswith(": error: drawing dates takes Babel: pip install babel\n")


def test_scores_do_not_depend_on_the_order_of_reading(reader):
    torch.manual_seed(1)
    assert evaluate.score(reader, "cs", 30) == evaluate.score(reader, "cs", 30)
