import pytest
from matplotlib import font_manager

from pellucid.viewer.pictures import fonts
from pellucid.viewer.pictures.fonts import BASE, Lettering


def test_latin_text_needs_the_base_alone():
    lettering = Lettering(["3 mars 1997", "␣"])
    assert lettering.families == [BASE]
    assert lettering.spell("3 mars 1997") == "3 mars 1997"


@pytest.fixture
def installed(monkeypatch):
    """Pretend that fonts are installed: a family's name and what it can draw."""

    def install(**families):
        characters = {BASE: frozenset("abc")} | {name: frozenset(drawn) for name, drawn in families.items()}
        monkeypatch.setattr(fonts, "_families", lambda: list(families))
        monkeypatch.setattr(fonts, "_path", lambda family: family)
        monkeypatch.setattr(fonts, "_characters", lambda path: characters[path])

    return install


def test_what_no_font_has_is_spelled_as_its_code_point(installed):
    installed()
    lettering = Lettering(["a月", "😀"])
    assert lettering.missing == {"月", "😀"}
    assert lettering.spell("a月b😀") == "aU+6708bU+1F600"


def test_text_that_stays_text_is_spelled_as_it_is(installed):
    installed()
    assert Lettering(["a月"], as_text=True).spell("a月$") == r"a月\$"


@pytest.mark.parametrize(
    ("text", "package"),
    [
        ("月", "fonts-noto-cjk"),
        ("한", "fonts-noto-cjk"),
        ("𠀀", "fonts-noto-cjk"),
        ("मा", "fonts-noto-core"),
        ("😀", "fonts-symbola"),
        ("😀月", "fonts-noto-cjk and fonts-symbola"),
        ("".join(map(chr, range(0x4E00, 0x4E10))), "fonts-noto-cjk"),
    ],
)
def test_the_package_that_has_what_is_missing_is_named(installed, text, package):
    installed()
    with pytest.warns(UserWarning, match=rf"^no installed font has .{{1,80}} install {package} \(Debian, Ubuntu\)"):
        Lettering([text]).warn()


def test_a_font_that_was_installed_since_is_found(monkeypatch):
    """matplotlib keeps its list of fonts from run to run."""
    base = font_manager.findfont(BASE)
    known = [entry for entry in font_manager.fontManager.ttflist if entry.fname != base]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(known))
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [base, __file__])
    fonts._add_installed.cache_clear()
    list(fonts._found_by({"月"}))
    assert [entry.fname for entry in font_manager.fontManager.ttflist if entry not in known] == [base]


def test_families_are_added_only_while_they_help(installed):
    installed(Useless="xyz", Chinese="月日", Emoji="😀", Later="月")
    lettering = Lettering(["a月", "😀"])
    assert lettering.families == [BASE, "Chinese", "Emoji"]
    assert not lettering.missing


def test_a_font_file_that_is_none_draws_nothing(tmp_path):
    path = tmp_path / "broken.ttf"
    path.write_bytes(b"no font")
    assert fonts._characters(str(path)) == frozenset()


def test_a_family_may_have_a_hyphen_in_its_name():
    assert fonts._path("No Such Font-Family") == fonts._path(BASE)


def test_placeholders_draw_nothing(monkeypatch):
    """The font for what no font has, which comes with matplotlib 3.10, claims every character."""
    entries = [font_manager.FontEntry(name=name, style="normal", weight=400) for name in ("Han", "Last Resort High")]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", entries)
    assert fonts._families() == ["Han"]


@pytest.mark.parametrize("face", [{"style": "italic", "weight": 400}, {"style": "normal", "weight": 700}])
def test_a_family_has_an_upright_face_of_normal_weight(monkeypatch, face):
    entries = [
        font_manager.FontEntry(name=BASE, style="normal", weight=400),
        font_manager.FontEntry(name="Odd", **face),
    ]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", entries)
    assert fonts._families() == []


def test_asking_every_family_says_nothing(caplog):
    for family in fonts._families():
        assert fonts._path(family)
    assert not caplog.records


def test_the_base_comes_with_matplotlib():
    assert "a" in fonts._characters(str(font_manager.findfont(BASE, fallback_to_default=False)))
