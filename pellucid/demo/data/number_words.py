"""Days, months and years spelled out, in the languages where people write them so."""

from __future__ import annotations


def _listed(words: str) -> tuple[str, ...]:
    """The comma-separated words, in order."""
    return tuple(word.strip() for word in words.split(","))


ENGLISH_DAYS = _listed(
    "first, second, third, fourth, fifth, sixth, seventh, eighth, ninth, tenth, eleventh, twelfth, thirteenth, "
    "fourteenth, fifteenth, sixteenth, seventeenth, eighteenth, nineteenth, twentieth, twenty-first, twenty-second, "
    "twenty-third, twenty-fourth, twenty-fifth, twenty-sixth, twenty-seventh, twenty-eighth, twenty-ninth, thirtieth, "
    "thirty-first"
)
GERMAN_DAYS = _listed(
    "erster, zweiter, dritter, vierter, fünfter, sechster, siebter, achter, neunter, zehnter, elfter, zwölfter, "
    "dreizehnter, vierzehnter, fünfzehnter, sechzehnter, siebzehnter, achtzehnter, neunzehnter, zwanzigster, "
    "einundzwanzigster, zweiundzwanzigster, dreiundzwanzigster, vierundzwanzigster, fünfundzwanzigster, "
    "sechsundzwanzigster, siebenundzwanzigster, achtundzwanzigster, neunundzwanzigster, dreißigster, "
    "einunddreißigster"
)
FRENCH_DAYS = _listed(
    "premier, deux, trois, quatre, cinq, six, sept, huit, neuf, dix, onze, douze, treize, quatorze, quinze, seize, "
    "dix-sept, dix-huit, dix-neuf, vingt, vingt-et-un, vingt-deux, vingt-trois, vingt-quatre, vingt-cinq, vingt-six, "
    "vingt-sept, vingt-huit, vingt-neuf, trente, trente-et-un"
)
SPANISH_DAYS = _listed(
    "primero, dos, tres, cuatro, cinco, seis, siete, ocho, nueve, diez, once, doce, trece, catorce, quince, dieciséis, "
    "diecisiete, dieciocho, diecinueve, veinte, veintiuno, veintidós, veintitrés, veinticuatro, veinticinco, "
    "veintiséis, veintisiete, veintiocho, veintinueve, treinta, treinta y uno"
)
ITALIAN_DAYS = _listed(
    "primo, due, tre, quattro, cinque, sei, sette, otto, nove, dieci, undici, dodici, tredici, quattordici, quindici, "
    "sedici, diciassette, diciotto, diciannove, venti, ventuno, ventidue, ventitré, ventiquattro, venticinque, "
    "ventisei, ventisette, ventotto, ventinove, trenta, trentuno"
)
PORTUGUESE_DAYS = _listed(
    "primeiro, dois, três, quatro, cinco, seis, sete, oito, nove, dez, onze, doze, treze, catorze, quinze, dezesseis, "
    "dezessete, dezoito, dezenove, vinte, vinte e um, vinte e dois, vinte e três, vinte e quatro, vinte e cinco, "
    "vinte e seis, vinte e sete, vinte e oito, vinte e nove, trinta, trinta e um"
)
RUSSIAN_DAYS = _listed(
    "первое, второе, третье, четвёртое, пятое, шестое, седьмое, восьмое, девятое, десятое, одиннадцатое, двенадцатое, "
    "тринадцатое, четырнадцатое, пятнадцатое, шестнадцатое, семнадцатое, восемнадцатое, девятнадцатое, двадцатое, "
    "двадцать первое, двадцать второе, двадцать третье, двадцать четвёртое, двадцать пятое, двадцать шестое, "
    "двадцать седьмое, двадцать восьмое, двадцать девятое, тридцатое, тридцать первое"
)
ROMAN_MONTHS = _listed("I, II, III, IV, V, VI, VII, VIII, IX, X, XI, XII")

_HAN_DIGITS = "〇一二三四五六七八九"
_ENGLISH_UNITS = _listed(
    "zero, one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen, fifteen, "
    "sixteen, seventeen, eighteen, nineteen"
)
_ENGLISH_TENS = _listed("zero, ten, twenty, thirty, forty, fifty, sixty, seventy, eighty, ninety")


def han_number(number: int) -> str:
    """A number from 1 to 99 in Chinese characters.

    >>> han_number(31)
    '三十一'
    """
    tens, unit = divmod(number, 10)
    return ("" if tens < 2 else _HAN_DIGITS[tens]) + ("十" if tens else "") + (_HAN_DIGITS[unit] if unit else "")


def han_year(year: int) -> str:
    """A year, digit by digit, in Chinese characters.

    >>> han_year(2005)
    '二〇〇五'
    """
    return "".join(_HAN_DIGITS[int(digit)] for digit in str(year))


def han_year_with_zero(year: int) -> str:
    """The same with the other character for zero.

    >>> han_year_with_zero(2005)
    '二零零五'
    """
    return han_year(year).replace("〇", "零")


def english_year(year: int) -> str:
    """A year from 1000 to 2999 as it is said in English.

    >>> english_year(1997), english_year(1905), english_year(2004), english_year(1800)
    ('nineteen ninety-seven', 'nineteen oh five', 'two thousand four', 'eighteen hundred')
    """
    century, rest = divmod(year, 100)
    if century % 10 == 0 and rest < 10:
        thousands = f"{_ENGLISH_UNITS[century // 10]} thousand"
        return f"{thousands} {_ENGLISH_UNITS[rest]}" if rest else thousands
    if rest == 0:
        return f"{_english_number(century)} hundred"
    return f"{_english_number(century)} {'oh ' if rest < 10 else ''}{_english_number(rest)}"


def english_year_with_and(year: int) -> str:
    """The same, with the "and" that the British say.

    >>> english_year_with_and(2004)
    'two thousand and four'
    """
    return english_year(year).replace(" thousand ", " thousand and ")


def _english_number(number: int) -> str:
    """A number from 1 to 99 in English words."""
    if number < 20:
        return _ENGLISH_UNITS[number]
    tens, unit = divmod(number, 10)
    return _ENGLISH_TENS[tens] + (f"-{_ENGLISH_UNITS[unit]}" if unit else "")


HAN_DAYS = tuple(han_number(day) for day in range(1, 32))
HAN_MONTHS = tuple(f"{han_number(month)}月" for month in range(1, 13))
