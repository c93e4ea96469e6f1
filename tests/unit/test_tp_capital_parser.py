"""Which texts are trading signals, what they say, and why the others are none."""

import time
from decimal import Decimal
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.sandbox.signals import remark
from gateway.tp_capital.notation import is_ticker, parse_price
from gateway.tp_capital.parser import MAX_CHARACTERS, Reason, Signal, parse

# Ten times what the slowest takes on a busy machine; what is not linear takes seconds.
SECONDS_FOR_THE_LONGEST = 0.5


def signal(
    ticker: str, buy: tuple[str, ...] = (), targets: tuple[str, ...] = (), stop: str | None = None
) -> Signal:
    return Signal(
        ticker,
        Decimal(buy[0]) if buy else None,
        Decimal(buy[-1]) if buy else None,
        tuple(map(Decimal, targets)),
        Decimal(stop) if stop is not None else None,
    )


WHOLE = signal("PETR4", ("25.50", "26.00"), ("26.80", "27.50", "29.00"), "24.90")

SPELLINGS = {
    "as published": (
        "ATIVO: PETR4\nCOMPRA: 25,50 A 26,00\nALVO 1: 26,80\nALVO 2: 27,50\nALVO FINAL: 29,00\nSTOP: 24,90"
    ),
    "points for commas": (
        "ATIVO: PETR4\nCOMPRA: 25.50 A 26.00\nALVO 1: 26.80\nALVO 2: 27.50\nALVO FINAL: 29.00\nSTOP: 24.90"
    ),
    "no colons": (
        "ATIVO PETR4\nCOMPRA 25,50 A 26,00\nALVO 1 26,80\nALVO 2 27,50\nALVO FINAL 29,00\nSTOP 24,90"
    ),
    "one line": "ATIVO PETR4 COMPRA 25,5 A 26 ALVO 1 26,8 ALVO 2 27,5 ALVO FINAL 29 STOP 24,9",
    "from and to": (
        "Ativo: petr4, compra de 25,50 até 26,00; alvo 1: 26,80; alvo 2: 27,50; "
        "alvo final: 29,00; stop: 24,90"
    ),
    "between": (
        "PETR4 compra entre R$ 25,50 e R$ 26,00. Alvos: 26,80 / 27,50 / 29,00. Stop loss: abaixo de 24,90."
    ),
    "any order": (
        "STOP: 24,90\nALVO FINAL: 29\nALVO 2: 27,50\nALVO 1: 26,80\nCOMPRA: 25,50-26,00\nATIVO: PETR4"
    ),
    "range the wrong way round": (
        "ATIVO: PETR4\nCOMPRA: 26,00 A 25,50\nALVO 1: 26,80\nALVO 2: 27,50\nALVO FINAL: 29,00\nSTOP: 24,90"
    ),
    "dressed up": (
        "🚨🚨 **SINAL** 🚨🚨\n\n📌 **Ativo:** __PETR4__ 🇧🇷\n🟢 *Compra*: R$25,50 a R$26,00\n"
        "🎯 Alvo 1️⃣: R$ 26,80 ✅\n🎯 Alvo 2️⃣ ➡️ R$ 27,50\n🎯 Alvo final: `29,00` 🚀🚀\n🛑 Stop: R$ 24,90 ❌\n\n"
        "⚠️ Às 10:30 de 21/11/2026, risco de 2,5%. Gestão sempre! 💰 Grupo VIP (11) 99999-0000"
    ),
    "hidden characters": (
        "\ufeffAT\u200bIVO:\u00a0PE\u200dTR4\u2028COM\u00adPRA:\u202f25,\u206050\u2009A\u300026,00\r\n"
        "ALVO\u00a01:\t26,80\rALVO\u20032:27,50\x85ALVO\u2007FINAL:29,00\nSTOP:\u200e24,90"
    ),
    "full-width": "ＡＴＩＶＯ：ＰＥＴＲ４　ＣＯＭＰＲＡ：２５，５０　Ａ　２６，００　"
    "ＡＬＶＯ　１：２６，８０　"
    "ＡＬＶＯ　２：２７，５０　ＡＬＶＯ　ＦＩＮＡＬ：２９，００　ＳＴＯＰ：２４，９０",
    "mathematical bold": (
        "𝗔𝗧𝗜𝗩𝗢: 𝗣𝗘𝗧𝗥𝟰 𝗖𝗢𝗠𝗣𝗥𝗔: 𝟮𝟱,𝟱𝟬 𝗔 𝟮𝟲,𝟬𝟬 𝗔𝗟𝗩𝗢 𝟭: 𝟮𝟲,𝟴𝟬 𝗔𝗟𝗩𝗢 𝟮: 𝟮𝟳,𝟱𝟬 𝗔𝗟𝗩𝗢 𝗙𝗜𝗡𝗔𝗟: 𝟮𝟵,𝟬𝟬 𝗦𝗧𝗢𝗣: 𝟮𝟰,𝟵𝟬"
    ),
    "values below their labels": (
        "ATIVO\nPETR4\n\nCOMPRA\n25,50 A 26,00\n\n"
        "ALVO 1\n26,80\nALVO 2\n27,50\nALVO FINAL\n29,00\n\nSTOP\n24,90"
    ),
    "labels that touch": (
        "ATIVO:PETR4 COMPRA:25,50-26,00 ALVO1:26,80 ALVO2 27,50 ALVO FINAL:29,00 STOP24,90"
    ),
    "ticker behind the purchase": (
        "COMPRA PETR4: 25,50 A 26,00 ALVO 1 26,80 ALVO 2 27,50 ALVO FINAL 29,00 STOP 24,90 (saímos de VALE3)"
    ),
    "ordinals and distances in per cent": (
        "ATIVO: PETR4\nCOMPRAR EM 25,50 – 26,00\n1º ALVO: 26,80 +5%\n2º ALVO: 27,50 (+8%)\n"
        "ALVO FINAL: 29,00 - 13,7%\nSTOP: 24,90 (-2,4%)"
    ),
    "said twice, the same": (
        "ATIVO: PETR4\nCOMPRA: 25,50 A 26,00\nALVO 1: 26,80\nALVO 2: 27,50\nALVO FINAL: 29,00\nSTOP: 24,90\n"
        "Repetindo: PETR4, COMPRA: 25,5 A 26, STOP 24,9"
    ),
}


@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_every_spelling_of_a_signal_says_the_same(text: str) -> None:
    assert parse(text) == WHOLE


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ATIVO: VALE3\nCOMPRA: 61,20", signal("VALE3", ("61.20",))),
        ("VALE3 compra: 61,20", signal("VALE3", ("61.20",))),
        ("Compra VALE3 em 61,20, stop 60", signal("VALE3", ("61.20",), (), "60")),
        ("ATIVO: VALE3\nALVO 1: 63\nSTOP: 60", signal("VALE3", (), ("63",), "60")),
        (
            "ATIVO: VALE3\nCOMPRA: 61\nALVO: 65\nALVO: 63\nSTOP: 60",
            signal("VALE3", ("61",), ("65", "63"), "60"),
        ),
        (
            "ATIVO: WINFUT1\nCOMPRA: 125.430 A 125.500\nALVO 1: 126.000 pontos\nSTOP: 125.000",
            signal("WINFUT1", ("125430", "125500"), ("126000",), "125000"),
        ),
        (
            "ATIVO: WDOFUT\nCOMPRA: 5.432,5\nALVO 1: 5.450,00\nSTOP: 5420",
            signal("WDOFUT", ("5432.5",), ("5450",), "5420"),
        ),
        ("ATIVO: KLBNK177 COMPRA: 0,45 STOP: 0,20", signal("KLBNK177", ("0.45",), (), "0.20")),
        ("ATIVO: VALE3F COMPRA: 61,20", signal("VALE3F", ("61.20",))),
        # A number with one digit behind ALVO is the target's, with a colon between them it is the price.
        ("ATIVO: OIBR3 COMPRA: 3 ALVO 4 5 STOP 2", signal("OIBR3", ("3",), ("5",), "2")),
        ("ATIVO: OIBR3 COMPRA: 3 ALVO: 4 STOP: 2", signal("OIBR3", ("3",), ("4",), "2")),
        ("ATIVO: OIBR3 COMPRA: 3 ALVO 1:4 STOP:2", signal("OIBR3", ("3",), ("4",), "2")),
        ("ATIVO: OIBR3 COMPRA: 3 ALVO 1 ATINGIDO, ALVO 2 5", signal("OIBR3", ("3",), ("5",))),
        # Only what stands behind a label counts.
        ("📈 COMPRA! PETR4 📈\nCOMPRA: 25,50 (mínimo de 100 ações)", signal("PETR4", ("25.50",))),
        ("COMPRA PETR4 25,50, venda parcial no ALVO 1 27,00", signal("PETR4", ("25.50",), ("27",))),
    ],
)
def test_a_signal_needs_a_ticker_and_a_purchase_or_a_target_with_a_stop(text: str, said: Signal) -> None:
    assert parse(text) == said


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("COMPRA: 25,50 A 26,00\nALVO 1: 27\nSTOP: 24", Reason.NO_TICKER),
        ("COMPRA: 25,50", Reason.NO_TICKER),
        ("ATIVO: PETROBRAS\nCOMPRA: 25,50 (VALE3 fica para depois)", Reason.NO_TICKER),
        ("ATIVO: PETR44\nCOMPRA: 25,50", Reason.NO_TICKER),
        ("ATIVO: PETROBRAS COMPRA VALE3: 60", Reason.NO_TICKER),
        ("ATIVO: PETR4\nCOMPRA: 25,50\nATIVO: VALE3\nCOMPRA: 61", Reason.SEVERAL_TICKERS),
        ("PETR4 ou VALE3, COMPRA: 25,50", Reason.SEVERAL_TICKERS),
        ("ATIVO: PETR4\nCOMPRA: 25,5,0", Reason.INVALID_PRICE),
        ("ATIVO: PETR4\nCOMPRA: 25,50 A 26.0.0", Reason.INVALID_PRICE),
        ("ATIVO: PETR4\nCOMPRA: 0,00", Reason.INVALID_PRICE),
        ("ATIVO: PETR4\nCOMPRA: 25,50 A 26,00 A 27,00", Reason.INVALID_PRICE),
        ("ATIVO: PETR4\nCOMPRA: 25⁵⁰", Reason.INVALID_PRICE),
        ("ATIVO: PETR4\nCOMPRA: 25½", Reason.INVALID_PRICE),
        ("ATIVO: PETR4\nCOMPRA: ,50", Reason.INVALID_PRICE),
        ("ATIVO: PETR4\nCOMPRA: 25,50k", Reason.INVALID_PRICE),
        ("ATIVO: PETR4\nCOMPRA: 9999999999", Reason.INVALID_PRICE),
        ("ATIVO: PETR4\nCOMPRA: 25,50\nSTOP: 5%", Reason.INVALID_PRICE),
        ("ATIVO: PETR4\nCOMPRA: 25,50\nSTOP: -0,50", Reason.INVALID_PRICE),
        ("ATIVO: PETR4\nCOMPRA: 25,50\nALVO 1: +1,50", Reason.INVALID_PRICE),
        ("ATIVO: WINFUT\nCOMPRA: 125.430\nSTOP: 150 pontos", Reason.INVALID_PRICE),
        ("COMPRA DE 100 PETR4 A 25,50 STOP 24 ALVO 27", Reason.INVALID_PRICE),
        ("ATIVO: PETR4\nCOMPRA: 10:30", Reason.INVALID_PRICE),
        ("ATIVO: PETR4\nCOMPRA: 25,50\nCOMPRA: 25,80", Reason.CONFLICTING_PRICES),
        ("ATIVO: PETR4\nCOMPRA: 25,50\nSTOP: 24\nSTOP: 23", Reason.CONFLICTING_PRICES),
        ("ATIVO: PETR4\nCOMPRA: 25,50\nALVO 1: 27\nALVO 1: 28", Reason.CONFLICTING_PRICES),
        ("ATIVO: PETR4", Reason.NO_PRICES),
        ("ATIVO: PETR4\nCOMPRA: a mercado", Reason.NO_PRICES),
        ("ATIVO: PETR4\nSTOP: 24", Reason.NO_PRICES),
        ("ATIVO: PETR4\nALVO 1: 27", Reason.NO_PRICES),
        ("ATIVO: PETR4\nCOMPRA: 25,50\nSTOP: 25,50", Reason.STOP_ABOVE_BUY),
        ("ATIVO: PETR4\nCOMPRA: 25,50 A 26,00\nSTOP: 25,80", Reason.STOP_ABOVE_BUY),
        ("ATIVO: PETR4\nALVO 1: 27\nSTOP: 28", Reason.STOP_ABOVE_TARGET),
        ("ATIVO: PETR4\nCOMPRA: 25,50 A 26,00\nALVO 1: 25,90", Reason.TARGET_BELOW_BUY),
    ],
)
def test_what_was_meant_as_a_signal_fails_with_its_reason(text: str, reason: Reason) -> None:
    assert parse(text) is reason
    assert reason.is_failure


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "👍",
        "Bom dia! Mercado abre com viés de alta.",
        "Zerando PETR4 no preço médio; seguimos fora",
        "Atenção: suporte de PETR4 em 25,50",
        "Comprei PETR4 a 25,50 ontem",
        "A compra de VALE3 deu certo",
        "Fiz uma compra de 100 reais",
        "Compra de 100 ações",
        "Movam o stop de PETR4",
        "Stop em 5% do capital, sempre",
        "Alvo 1 atingido em PETR4, parcial de 50% e stop no zero a zero. 🎯",
        "Ativo em queda hoje, cuidado",
        "o ativo PETR4 caiu 3%",
        "Compra às 10:30",
    ],
)
def test_talk_is_no_failed_signal(text: str | None) -> None:
    assert parse(text) is Reason.NOT_A_SIGNAL
    assert not Reason.NOT_A_SIGNAL.is_failure


def test_what_people_say_in_the_sandbox_is_talk() -> None:
    chance = Random(7)
    assert {parse(remark(chance)) for _ in range(500)} == {Reason.NOT_A_SIGNAL}


def test_a_signal_to_sell_is_not_taken_for_a_purchase() -> None:
    assert parse("VENDA PETR4: 25,50 A 25,20 ALVO 1 24,50 STOP 26,00") is Reason.SELL_SIGNAL
    assert not Reason.SELL_SIGNAL.is_failure


TICKERS = """
PETR4 VALE3 TAEE11 BOVA11 B3SA3 M1TA34 AAPL34 5GTK11 PETR1 VALE3F TAEE11F
KLBNK177 PETRA123 PETRX5 PETRO4 BOVAL120 PETRA123W2
WINZ26 WDOF27 DI1F29 WINFUT WDOFUT WINFUT1
"""
NO_TICKERS = """
PETR PET4 PETR0 PETR20 PETR44 PETROB4 12344 PETRY10 PETRA12345 PETR4FF WINA26 WINFUT123 WIN
petr4 PETR4.SA GRUPO2026X PETR４
"""


@pytest.mark.parametrize("ticker", TICKERS.split())
def test_the_forms_of_b3s_codes_are_tickers(ticker: str) -> None:
    assert is_ticker(ticker)


@pytest.mark.parametrize("ticker", ["", "PETR 4", *NO_TICKERS.split()])
def test_anything_else_is_none(ticker: str) -> None:
    assert not is_ticker(ticker)


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ("25,50", "25.50"),
        ("25.50", "25.50"),
        ("25", "25"),
        ("0,05", "0.05"),
        ("0.125", "0.125"),
        ("13,255", "13.255"),
        ("125.430", "125430"),
        ("1.234", "1234"),
        ("1.234.567", "1234567"),
        ("1.234,56", "1234.56"),
        ("1,234.56", "1234.56"),
        ("5432.5", "5432.5"),
        ("1234.567", "1234.567"),
        ("125430", "125430"),
    ],
)
def test_points_and_commas_are_read_as_brazilians_mean_them(text: str, price: str) -> None:
    assert parse_price(text) == Decimal(price)


@pytest.mark.parametrize(
    "text",
    ["", "0", "0,00", "1.23.4", "1,2,3", "12.34,56", "1.2345,6", ".5", ",5", "5,", "1e5", "٢٥", "1234567890"],
)
def test_other_numbers_are_no_prices(text: str) -> None:
    assert parse_price(text) is None


prices = st.decimals(min_value="0.01", max_value="250000", places=2)
tickers = st.from_regex(
    r"[A-Z]{4}([3-8]|11|34)F?|[A-Z]{4}[A-X][1-9][0-9]{0,2}|W(IN|DO)(FUT1?|[FGHJKMNQUVXZ]2[0-9])",
    fullmatch=True,
)
NOISE = [
    "",
    "",
    "🚨 Atenção 🚨",
    "Bora!",
    "risco de 2,5%",
    "21/11/2026 às 10:30",
    "https://t.me/sinais_1",
    "-----",
]


@st.composite
def signals(draw: st.DrawFn) -> Signal:
    steps = sorted(draw(st.lists(prices, min_size=2, max_size=7, unique=True)))
    stop, *above = steps
    buy = above[: draw(st.integers(0, min(2, len(above))))]
    targets = draw(st.permutations(above[len(buy) :]))
    stops = not buy or draw(st.booleans())
    return Signal(
        draw(tickers),
        buy[0] if buy else None,
        buy[-1] if buy else None,
        tuple(targets),
        stop if stops else None,
    )


def spelled_price(draw: st.DrawFn, price: Decimal) -> str:
    digits, _, decimals = f"{price:.2f}".partition(".")
    grouped = f"{int(digits):,}".replace(",", ".")
    forms = [f"{digits},{decimals}", f"{digits}.{decimals}", f"{grouped},{decimals}"]
    if decimals == "00":
        forms += [digits, grouped]
    return draw(st.sampled_from(["", "", "R$", "R$ "])) + draw(st.sampled_from(forms))


def spelled_purchase(draw: st.DrawFn, low: Decimal, high: Decimal) -> str:
    first, second = spelled_price(draw, low), spelled_price(draw, high)
    if low == high and draw(st.booleans()):
        return draw(st.sampled_from([f": {first}", f" {first}", f" em {first}"]))
    if draw(st.booleans()):
        first, second = second, first
    form = draw(
        st.sampled_from([": {} A {}", " {} a {}", " DE {} ATÉ {}", " de {} ate {}", ": {} - {}", ":{}–{}"])
    )
    return form.format(first, second)


@st.composite
def spellings(draw: st.DrawFn) -> tuple[Signal, str]:
    """A signal, and one of the many ways to write it."""
    meant = draw(signals())
    colon: str = draw(st.sampled_from([": ", " ", ":", " - "]))
    named = draw(st.sampled_from(["ATIVO: {}", "ATIVO {}", "{}"])).format(meant.ticker)
    lines = [named]
    if meant.buy_min is not None and meant.buy_max is not None:
        lines.append("COMPRA" + spelled_purchase(draw, meant.buy_min, meant.buy_max))
    names = [f"ALVO {number}" for number in range(1, len(meant.targets) + 1)]
    if names:
        names[-1] = draw(st.sampled_from([names[-1], "ALVO FINAL"]))
    lines += [
        f"{name}{colon}{spelled_price(draw, price)}" for name, price in zip(names, meant.targets, strict=True)
    ]
    if meant.stop is not None:
        lines.append(f"STOP{colon}{spelled_price(draw, meant.stop)}")
    lines = draw(st.permutations(lines))
    text = "".join(f"{draw(st.sampled_from(NOISE))}\n{line}\n" for line in lines)
    return meant, disguised(draw, text)


def disguised(draw: st.DrawFn, text: str) -> str:
    match draw(st.sampled_from(["plain", "lower", "title", "hidden", "full-width", "narrow spaces"])):
        case "lower":
            return text.lower()
        case "title":
            return text.title()
        case "hidden":
            return "\u200b".join(text)
        case "full-width":
            return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" and c not in "$/" else c for c in text)
        case "narrow spaces":
            return text.replace(" ", "\u00a0")
    return text


@given(spellings())
@settings(max_examples=400)
def test_every_signal_is_read_back_from_every_spelling(spelling: tuple[Signal, str]) -> None:
    meant, text = spelling
    assert parse(text) == meant


WORDS = ["ATIVO", "COMPRA", "VENDA", "ALVO", "ALVO 1", "STOP", "PETR4", "A", "DE", "25,50", "1.", "R$", "1/1"]
words = st.sampled_from([*WORDS, *",9-: \n%X*", "\ufdfa", "𝟭", "½", "\u0301", "\ud83d"])


def seconds_to_parse(text: str) -> float:
    began = time.thread_time()
    parse(text)
    return time.thread_time() - began


@given(
    st.lists(words | st.characters(), min_size=1, max_size=12)
    .map("".join)
    .flatmap(lambda part: st.just((part * MAX_CHARACTERS)[:MAX_CHARACTERS]))
    | st.text(max_size=300)
)
@example("9" * MAX_CHARACTERS)
@example("ATIVO X " * 512)
@example("COMPRA A " * 455)
@example("COMPRA" + " A" * 2045)
@example("COMPRA: 1" + " A 1" * 1021)
@example("1." * 2048)
@example("\u0301\u0316" * 2048)
@example("x" * 1_000_000)
@settings(max_examples=300)
def test_whatever_the_longest_message_holds_is_read_at_once(text: str) -> None:
    # Three times: the collector may come by once.
    assert any(seconds_to_parse(text) < SECONDS_FOR_THE_LONGEST for _ in range(3))
    said = parse(text)
    if isinstance(said, Signal):
        assert is_ticker(said.ticker)
        assert said.buy_min is not None or (said.targets and said.stop is not None)
        assert all(price > 0 for price in (*said.targets, said.buy_min or 1, said.stop or 1))
