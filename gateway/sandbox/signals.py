"""The words of the sandbox's traffic: Brazilian trading signals, and what people say around them."""

from __future__ import annotations

import random

_TICKERS = ("PETR4", "VALE3", "ITUB4", "BBDC4", "BBAS3", "ABEV3", "WEGE3", "MGLU3", "WINFUT", "WDOFUT")
_REMARKS = (
    "Bom dia, pessoal! Mercado abre com viés de alta, atenção ao payroll às 09:30.",
    "Alvo 1 atingido em {ticker}, parcial de 50% e stop no zero a zero. 🎯",
    "Alguém entrou em {ticker}? Liquidez fraca hoje…",
    "Zerando {ticker} no preço médio; seguimos fora até a ata do Copom.",
    "Atenção: suporte de {ticker} em {price}, perdendo isso muda o cenário.",
    "Resultado do dia: +{points} pontos. Gestão de risco sempre! 📈",
)


def _price(value: float) -> str:
    return f"{value:.2f}".replace(".", ",")


def signal(chance: random.Random) -> str:
    """A trading signal, such as COMPRA PETR4: 25,50 A 26,00 ALVO 1 26,50 ALVO 2 27,20 STOP 25,00."""
    buy = chance.random() < 0.6
    entry = round(chance.uniform(5, 130), 2)
    step = entry * chance.uniform(0.01, 0.03) * (1 if buy else -1)
    return (
        f"{'COMPRA' if buy else 'VENDA'} {chance.choice(_TICKERS)}: "
        f"{_price(entry)} A {_price(entry + step * 0.3)} "
        f"ALVO 1 {_price(entry + step)} ALVO 2 {_price(entry + step * 2)} STOP {_price(entry - step)}"
    )


def remark(chance: random.Random) -> str:
    """Something that is no signal."""
    return chance.choice(_REMARKS).format(
        ticker=chance.choice(_TICKERS), price=_price(chance.uniform(5, 130)), points=chance.randint(50, 900)
    )


def words(chance: random.Random) -> str:
    """A text as it comes: two signals to one remark."""
    return signal(chance) if chance.random() < 2 / 3 else remark(chance)
