"""Reads a Brazilian trading signal out of a message's words, or says why there is none. Pure, in linear time.

A text is cut into tokens once; lines may come in any order, with anything between them. Money depends on the
result, so what could be read in two ways is refused, never guessed.
"""

import re
import unicodedata
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from gateway.tp_capital.notation import is_ticker, parse_price

MAX_CHARACTERS = 4096  # Telegram's own limit; what an import has beyond it is not read


class Reason(StrEnum):
    """Why a text gives no signal, with what to tell people."""

    explanation: str

    def __new__(cls, value: str, explanation: str) -> "Reason":
        member = str.__new__(cls, value)
        member._value_ = value
        member.explanation = explanation
        return member

    NOT_A_SIGNAL = "not_a_signal", "not a trading signal"
    SELL_SIGNAL = "sell_signal", "a signal to sell; only purchases are kept"
    NO_TICKER = "no_ticker", "no valid ticker where one belongs"
    SEVERAL_TICKERS = "several_tickers", "more than one ticker, and no saying which to buy"
    INVALID_PRICE = "invalid_price", "what stands where a price belongs is no price"
    CONFLICTING_PRICES = "conflicting_prices", "two different prices for the same thing"
    NO_PRICES = "no_prices", "neither a price to buy at, nor a target with a stop"
    STOP_ABOVE_BUY = "stop_above_buy", "the stop is not below the price to buy at"
    STOP_ABOVE_TARGET = "stop_above_target", "the stop is not below the targets"
    TARGET_BELOW_BUY = "target_below_buy", "a target is not above the price to buy at"

    @property
    def is_failure(self) -> bool:
        """Whether a signal was meant, so that a person should look at it."""
        return self not in (Reason.NOT_A_SIGNAL, Reason.SELL_SIGNAL)


@dataclass(frozen=True, slots=True)
class Signal:
    """A purchase. `buy_min` equals `buy_max` for a single price; targets are in order, the final one last."""

    ticker: str
    buy_min: Decimal | None = None
    buy_max: Decimal | None = None
    targets: tuple[Decimal, ...] = ()
    stop: Decimal | None = None


# Emphasis, and what makes an ordinal (1º), says nothing.
_SILENT = re.compile("[*_~`ºª°]")
_LINE_ENDS = re.compile("\r\n?|[\v\f\x85\u2028\u2029]")

# A label may touch its number (ALVO1, STOP25,00). A moment (10:30, 21/11) is neither price nor ticker. A
# number with a sign, or with one point or comma before it, was meant as a price and is none.
_TOKEN = re.compile(
    r"(?P<ATIVO>ATIVO)(?![A-Z])"
    r"|(?P<COMPRA>COMPRAR?)(?![A-Z])"
    r"|(?P<VENDA>VENDA)(?![A-Z])"
    r"|(?P<ALVO>ALVOS?(?![A-Z]))(?: ?(?P<which>[1-9]|FINAL)(?![A-Z]|[.,]?[0-9]))?"
    r"|(?P<STOP>STOP(?: ?LOSS)?)(?![A-Z])"
    r"|(?P<word>[0-9]?[A-Z][A-Z0-9]*)"
    r"|(?P<moment>[0-9]{1,2}[:/][0-9]{1,2}(?:[:/][0-9]{2,4})?(?![.,]?[0-9]))"
    r"|(?P<number>(?:\+|(?<=:)-|(?<=: )-)?(?:(?<![.,])[.,])?[0-9][0-9.,]*)(?P<tail> ?%|[A-Z])?"
    r"|(?P<mark>[:/\n-])"
)
_OUTER = {"which": "ALVO", "tail": "number"}
_PRICED = frozenset({"COMPRA", "VENDA", "ALVO", "STOP"})
_LABELS = _PRICED | {"ATIVO"}
_BEFORE_PRICE = frozenset({"DE", "A", "EM", "NO", "NA", "POR", "ENTRE", "ABAIXO", "ACIMA", ":", "-", "\n"})
_BETWEEN_PRICES = frozenset({"A", "ATE", "E", "-", "/"})
_UNITS = frozenset({"ACAO", "ACOES", "COTA", "COTAS", "LOTE", "LOTES", "CONTRATO", "CONTRATOS", "VEZES"})
_POINTS = frozenset({"PONTO", "PONTOS", "PT", "PTS", "TICK", "TICKS"})
_FEWEST_POINTS = 5000  # fewer are a distance (STOP 150 pontos), more are where the index or the dollar stands


class _Token(NamedTuple):
    kind: str  # a label, word, mark, price, malformed (meant as a price) or other (a number that is none)
    text: str
    price: Decimal = Decimal(0)
    which: str = ""  # of the targets: 1, 2, … or FINAL


_Prices = dict[tuple[str, str], list[tuple[Decimal, ...]]]  # by label, and by which of the targets


@dataclass(slots=True)
class _Found:
    """What a text says, before anybody judges it. Labels of prices are COMPRA, ALVO and STOP."""

    tickers: set[str]
    named: set[str] = field(default_factory=set)  # by ATIVO, or between COMPRA and its price
    declared: bool = False  # ATIVO is a field here, not just a word
    nameless: bool = False  # an ATIVO that may be a field holds no ticker
    offered: bool = False  # COMPRA is a field: it has a colon or two prices
    selling: bool = False  # VENDA has a price
    prices: _Prices = field(default_factory=dict)
    malformed: set[str] = field(default_factory=set)  # labels
    others: set[str] = field(default_factory=set)  # labels


def parse(text: str | None) -> Signal | Reason:
    """The one signal in `text`, or why there is none."""
    tokens = _tokens(_plain(text or ""))
    found = _Found({token.text for token in tokens if token.kind == "word" and is_ticker(token.text)})
    for place, token in enumerate(tokens):
        if token.kind == "ATIVO":
            _read_ticker(tokens, place, found)
        elif token.kind in _PRICED:
            _read_prices(tokens, place, found)
    return _judge(found)


def _plain(text: str) -> str:
    """Capital ASCII letters, digits and punctuation; no accents, emoji, emphasis or invisible characters."""
    text = _LINE_ENDS.sub("\n", _SILENT.sub("", text[:MAX_CHARACTERS]))
    plain = "".join(map(_plain_character, text)).upper()
    return re.sub(" +", " ", re.sub(r"\bR ?\$", " ", plain))


def _plain_character(character: str) -> str:
    if character.isascii():
        return character if character.isprintable() or character == "\n" else " "
    category = unicodedata.category(character)
    if category in ("Cf", "Mn", "Me"):
        return ""
    if category == "Pd" or character == "−":
        return "-"
    if unicodedata.decomposition(character).startswith(("<super>", "<sub>", "<fraction>")):
        return "X"  # 25⁵⁰ and 25½ are no prices that anybody can rely on, and 2550 least of all
    parts = unicodedata.normalize("NFKD", character)
    return "".join(part for part in parts if part.isascii() and part.isprintable()) or " "


def _tokens(text: str) -> Sequence[_Token]:
    tokens = []
    for match in _TOKEN.finditer(text):
        group = match.lastgroup or ""
        kind = _OUTER.get(group, group)
        said = match[kind]
        if kind != "number":
            kind = "other" if kind == "moment" else kind
            tokens.append(_Token(kind, said, which=match["which"] or ""))
            continue
        price = parse_price(said.rstrip(".,"))
        if (match["tail"] or "").endswith("%"):
            tokens.append(_Token("other", said))
        elif price is None or match["tail"]:
            tokens.append(_Token("malformed", said))
        else:
            tokens.append(_Token("price", said, price))
    # Behind everything stands one more line end, so that each token has a successor.
    return [*tokens, _Token("mark", "\n")]


def _read_ticker(tokens: Sequence[_Token], place: int, found: _Found) -> None:
    """The ticker on ATIVO's line, or on the next one where nothing else is on that line."""
    colon = tokens[place + 1].text == ":"
    a_field = colon or place == 0 or tokens[place - 1].text == "\n"
    place += 1
    while place < len(tokens) and tokens[place].kind == "mark":
        place += 1
    while place < len(tokens) and tokens[place].text != "\n" and tokens[place].kind not in _LABELS:
        if tokens[place].text in found.tickers:
            found.named.add(tokens[place].text)
            found.declared |= a_field
            return
        place += 1
    found.declared |= colon
    found.nameless |= a_field


def _read_prices(tokens: Sequence[_Token], place: int, found: _Found) -> None:
    """The price behind the label at `place`, or several with a word or sign for "to" between them."""
    label, which = tokens[place].kind, tokens[place].which
    trading = label in ("COMPRA", "VENDA")
    tickers: set[str] = set()
    colon = False
    place += 1
    while tokens[place].text in _BEFORE_PRICE or (trading and tokens[place].text in found.tickers):
        if tokens[place].text in found.tickers:
            tickers.add(tokens[place].text)
        colon |= tokens[place].text == ":"
        place += 1
        if place == len(tokens):
            return

    prices: list[Decimal] = []
    token = _in_context(tokens, place, found.tickers if trading else set())
    while token.kind == "price":
        prices.append(token.price)
        place += 1
        between = place
        while tokens[place].text in _BETWEEN_PRICES:
            place += 1
        if place == between:
            break
        token = _in_context(tokens, place, set())
    if label == "VENDA":
        found.selling |= bool(prices)
        return
    most = {"COMPRA": 2, "STOP": 1, "ALVO": 1 if which else len(prices)}[label]
    if token.kind == "malformed" or len(prices) > most:
        found.malformed.add(label)
    elif prices:
        found.prices.setdefault((label, which), []).append(tuple(prices))
    elif token.kind == "other":
        found.others.add(label)
    if label == "COMPRA" and (prices or token.kind == "malformed"):
        found.named |= tickers
        found.offered |= colon or len(prices) > 1


def _in_context(tokens: Sequence[_Token], place: int, tickers: Set[str]) -> _Token:
    """The token, or `other` for a number that the word behind it makes a quantity or a distance."""
    token = tokens[place]
    if token.kind != "price":
        return token
    behind = tokens[place + 1].text
    counted = behind in _UNITS or (behind in tickers and token.text.isdigit())
    if counted or (behind in _POINTS and token.price < _FEWEST_POINTS):
        return token._replace(kind="other")
    return token


def _judge(found: _Found) -> Signal | Reason:
    priced = {label for label, _ in found.prices}
    tried = priced | found.malformed
    buying = "COMPRA" in tried
    if found.selling and not buying:
        return Reason.SELL_SIGNAL
    if not (found.declared or len(tried) > 1 or (buying and (found.offered or found.tickers))):
        return Reason.NOT_A_SIGNAL
    tickers = found.named or found.tickers
    if found.nameless or not tickers:
        return Reason.NO_TICKER
    if len(tickers) > 1:
        return Reason.SEVERAL_TICKERS
    if found.malformed or found.others - priced:
        return Reason.INVALID_PRICE
    return _weigh(tickers.pop(), found.prices)


def _weigh(ticker: str, prices: _Prices) -> Signal | Reason:
    buys = {tuple(sorted(said)) for said in prices.get(("COMPRA", ""), ())}
    stops = set(prices.get(("STOP", ""), ()))
    numbered = [set(said) for (_, target), said in prices.items() if target]
    if any(len(different) > 1 for different in (buys, stops, *numbered)):
        return Reason.CONFLICTING_PRICES
    in_order = [said for target in (*"123456789", "", "FINAL") for said in prices.get(("ALVO", target), ())]
    targets = tuple(dict.fromkeys(price for said in in_order for price in said))
    stop = stops.pop()[0] if stops else None
    if not buys:
        if stop is None or not targets:
            return Reason.NO_PRICES
        return Reason.STOP_ABOVE_TARGET if stop >= min(targets) else Signal(ticker, None, None, targets, stop)
    buy = buys.pop()
    if stop is not None and stop >= buy[0]:
        return Reason.STOP_ABOVE_BUY
    if targets and min(targets) <= buy[-1]:
        return Reason.TARGET_BELOW_BUY
    return Signal(ticker, buy[0], buy[-1], targets, stop)
