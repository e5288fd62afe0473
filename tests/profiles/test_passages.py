"""The text of examples."""

from pellucid.profiles.studies.passages import Passage, Piece, passages
from tests.profiles import checkpoints, making


def texts():
    """Every document's tokens, by its number."""
    found, first = {}, 0
    for length, documents, seed in ((13, 3, 0), (7, 5, 1), (29, 2, 2), (2, 1, 3)):
        record = making.watched((length, documents), seed)
        found |= {first + row: tokens for row, tokens in enumerate(record.tokens)}
        first += documents
    return found


def test_passages_are_the_text_around_the_query_and_the_keys():
    profile, known = checkpoints.whole(), texts()
    lists = [profile.strongest_queries(2, "distance"), profile.strongest_documents(1, "entropy"), profile.sequences(3)]
    for example in (one for found in lists for one in found):
        pieces = [piece for passage in passages(example) for piece in passage.pieces]
        text = known[example.document.number]
        assert all(piece.token == text[piece.position] for piece in pieces)
        assert [piece.position for piece in pieces] == sorted({piece.position for piece in pieces})
        assert [piece.position for piece in pieces if piece.is_query] == [example.query]
        assert [piece.position for piece in pieces if piece.is_key] == [example.key]
        weights = {piece.position: piece.weight for piece in pieces if piece.weight is not None}
        assert weights[example.key] >= example.weight


def test_a_passage_has_no_gap():
    for example in checkpoints.whole().strongest_queries(2, "distance"):
        for passage in passages(example):
            positions = [piece.position for piece in passage.pieces]
            assert positions == list(range(positions[0], positions[-1] + 1))


def test_a_key_alone_has_the_text_around_it():
    example = checkpoints.whole().strongest_keys(0)[0]
    (passage,) = passages(example)
    assert [piece.position for piece in passage.pieces if piece.is_key] == [example.key]
    assert passage.pieces[0].position == max(0, example.key - 4)
    assert not any(piece.is_query or piece.weight is not None for piece in passage.pieces)


def test_cross_attention_has_the_query_in_one_text_and_the_keys_in_the_other():
    profile = checkpoints.translation()
    place = next(place for place, head in enumerate(profile.heads) if head.role == "cross")
    for example in profile.strongest_queries(place, "entropy"):
        found = {passage.of_source: passage.pieces for passage in passages(example)}
        assert [piece.token for piece in found[False] if piece.is_query] == [f"t{example.query}"]
        assert [piece.token for piece in found[True] if piece.is_key] == [f"s{example.key}"]
        assert all(piece.weight is None for piece in found[False])


def test_a_head_of_the_source_has_its_text():
    profile = checkpoints.translation()
    place = next(place for place, head in enumerate(profile.heads) if head.role == "self")
    for example in profile.strongest_queries(place, "entropy"):
        (passage,) = passages(example)
        assert passage.of_source
        assert [piece.token for piece in passage.pieces if piece.is_query] == [f"s{example.query}"]


def test_tokens_without_spaces_are_set_apart_to_be_read():
    assert Passage(False, tuple(Piece(n, text) for n, text in enumerate(["diagonal", "##s", "and"])), True).text == (
        "diagonal##s and"
    )
    profile = checkpoints.translation()
    (passage,) = passages(profile.strongest_keys(0)[0])
    assert passage.text == " ".join(piece.token for piece in passage.pieces)
    assert not passages(checkpoints.whole().strongest_keys(0)[0])[0].apart
