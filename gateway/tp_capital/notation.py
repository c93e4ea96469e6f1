"""How B3 writes instruments and Brazilians write prices.

**Tickers** are B3's trading codes, by their form (which of them are listed today, only B3 knows):

- cash market: four letters or digits for the issuer (PETR, B3SA, M1TA), then the kind of paper, 1–19 (3 is
  ordinary, 4–8 preferred, 11 units and funds, the others rights and receipts) or 31–39 (BDRs), and `F` on the
  fractional market: PETR4, TAEE11, VALE3F;
- options: the issuer, the series A–X (calls A–L, puts M–X, by month), the strike's number, and `W1`–`W5` on
  weekly ones: KLBNK177, PETRA123W2;
- futures: three for the commodity, the month (F G H J K M N Q U V X Z) and the year, WINZ26; or what trading
  platforms call the current contract, WINFUT and WINFUT1.

**Prices**: a comma is the decimal sign. So is a point, unless exactly three digits stand behind it and one to
three before it, of which the first is not 0: 25.50 is 25.50, but 125.430 is 125 430 and 1.234 is 1 234. B3
quotes shares in cents and index futures in whole points, so three decimals are not meant; rates, which have
three, are written with a comma. With both signs the last one is the decimal sign: 1.234,56 and 1,234.56.
"""

import re
from decimal import Decimal

_MAX_DIGITS = 9  # before the decimal sign
_MAX_DECIMALS = 6

_TICKER = re.compile(
    r"(?=[0-9]?[A-Z])[A-Z0-9]{4}(?:[1-9]|1[0-9]|3[1-9])F?"
    r"|(?=[0-9]?[A-Z])[A-Z0-9]{4}[A-X][0-9]{1,4}(?:W[1-5])?"
    r"|[A-Z][A-Z0-9]{2}(?:[FGHJKMNQUVXZ][0-9]{2}|FUT[0-9]{0,2})"
)


def is_ticker(text: str) -> bool:
    """Whether `text`, in capitals, has the form of one of B3's codes."""
    return _TICKER.fullmatch(text) is not None


def parse_price(text: str) -> Decimal | None:
    """The price that digits, points and commas stand for; None when they stand for none."""
    if re.fullmatch(r"[1-9][0-9]{0,2}(?:\.[0-9]{3})+(?:,[0-9]+)?", text):
        text = text.replace(".", "").replace(",", ".")
    elif re.fullmatch(r"[1-9][0-9]{0,2}(?:,[0-9]{3})+\.[0-9]+", text):
        text = text.replace(",", "")
    elif re.fullmatch(r"[0-9]+(?:[.,][0-9]+)?", text):
        text = text.replace(",", ".")
    else:
        return None
    digits, _, decimals = text.partition(".")
    if len(digits) > _MAX_DIGITS or len(decimals) > _MAX_DECIMALS:
        return None
    return Decimal(text) or None
