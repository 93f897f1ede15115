"""Invented proper names: a seeded random generator in, short pronounceable words out.

Words are two syllables of five or six letters, two or three tokens each for a usual tokenizer. Any two words of one
supply differ in more than one letter, so that neither a model nor a search engine mixes them up. Words in use are
left out: no "e" in the second syllable and no final "s" (most English words of this shape have one), and a list.
"""

from __future__ import annotations

import random

_ONSETS = ("b", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "kr", "tr", "st")
_FIRST_VOWELS = ("a", "e", "i", "o", "u")
_MIDDLES = ("b", "d", "k", "l", "m", "n", "r", "s", "t", "v", "z", "lm", "ld", "nd", "rn", "rv", "sk", "lt")
_SECOND_VOWELS = ("a", "i", "o", "u")
_CODAS = ("", "n", "l", "r", "k", "m", "x")
# Words and word beginnings in use that these syllables can make: those that a language model's tokenizer (SmolLM2)
# has as one token.
_REAL = frozenset(
    """
    baron basal basin basil benin bison boron botan brazil breton bruno brutal dalton debor delim delta demol demon
    denom deton detox devil devon dimin divor domin donor drama fatal favor felix femin femur feral fetal final forum
    galax helix heral hilar himal hindi hindu homin honor human humor huron kabul kevin kumar labor lamin larva larval
    latin leban lemon lenin levin linda linux london lumin lunar malta manor marin mason medal melan memor metal milan
    milton minim minor mobil modal molar moral motor multi multil multim mural nanom nasal natal naval nebul panda
    panor param paran pedal penal peril polar putin radar radon raman random razor redox relax remun renal resin reson
    resol resur retal retin revol rival robin roman rotor rural salam salmon salon samar satan seldom semin serum
    simon solar sonar stabil stalin steril stimul sudan sultan susan tamil tendon tidal timor titan tonal total tremor
    tribal truman tudor tumor tutor valor vandal vendor venom vernon viral vital volta
    """.split()
)


class NameSupply:
    """Hands out invented words, each once."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._near: set[str] = set()
        # Every word given out and every way to drop one letter from it.

    def word(self) -> str:
        """A new capitalised word."""
        choice = self._rng.choice
        while True:
            word = choice(_ONSETS) + choice(_FIRST_VOWELS) + choice(_MIDDLES) + choice(_SECOND_VOWELS) + choice(_CODAS)
            # Words one letter apart share a form with one letter dropped.
            near = {word} | {word[:i] + word[i + 1 :] for i in range(len(word))}
            if 5 <= len(word) <= 6 and word not in _REAL and not near & self._near:
                self._near |= near
                return word.capitalize()
