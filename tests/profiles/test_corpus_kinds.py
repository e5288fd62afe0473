"""A head's kind over a corpus, and how sure it is."""

from dataclasses import replace

import pytest
import torch

from pellucid.profiles.sums import KINDS
from tests.profiles import checkpoints


def with_kinds(**counts):
    """A profile whose first head has these kinds in the documents beyond the sink."""
    profile = checkpoints.whole()
    kinds = torch.zeros_like(profile.sums["kinds_without_sink"])
    for name, count in counts.items():
        kinds[0, KINDS.index(name.replace("_", " "))] = count
    return replace(profile, sums={**profile.sums, "kinds_without_sink": kinds})


def kind_of(**counts):
    return with_kinds(**counts).corpus_kinds(without_sink=True)[0]


def test_the_kind_of_most_documents_with_its_share():
    found = kind_of(induction=90, mixed=8, unknown=5, local=2)
    assert (found.name, found.documents, found.second, found.leads) == ("induction", 100, "mixed", True)
    assert (found.share, found.second_share) == (0.9, 0.08)
    assert (found.low, found.high) == (pytest.approx(0.8256, abs=1e-4), pytest.approx(0.9448, abs=1e-4))
    assert str(found) == "induction in 90 % of 100 documents (83 to 94)"
    assert found.counts == {"induction": 90, "mixed": 8, "unknown": 5, "local": 2}


def test_two_kinds_of_nearly_as_many_documents_are_not_told_apart():
    found = kind_of(local=52, focused=48)
    assert (found.name, found.leads) == ("local", False)
    assert str(found) == "local in 52 % of 100 documents (42 to 62); focused may be ahead"
    assert kind_of(local=650, focused=350).leads


def test_of_as_many_the_first_by_the_rules():
    assert kind_of(focused=3, previous_token=3).name == "previous token"


def test_what_no_document_tells_is_unknown():
    found = kind_of(unknown=7)
    assert (found.name, found.documents, found.leads, str(found)) == ("unknown", 0, False, "unknown")
    assert (found.low, found.high) == (0.0, 1.0)


def test_every_document_counts_once():
    profile = checkpoints.whole()
    for without_sink in (False, True):
        for kind in profile.corpus_kinds(without_sink=without_sink):
            assert sum(kind.counts.values()) == profile.documents
