"""A grammar of logical forms: which words may be applied to what, and the actions that build a form from the top down.

A signature has a line for each type, the first being that of whole forms. On the right of "=" stand the ways to build
it, apart by "|": a constant, a word in brackets with the types of what it is applied to, or another type, all of whose
ways are then ways of this one. "#" begins a comment, a line that begins with "|" goes on with the one before it.

    query = ( lambda var kind fact ) | city
    fact  = ( flight var ) | ( from var place ) | ( and fact fact+ )
    place = city | var
    city  = ci0 | ci1
    var   = $0 | $1
    kind  = e

A last type with "+" stands for one or more of it, with "*" for any number. An action is one way to build, and a form is
written as the actions of its nodes from the top down and from the left; where any number may come, the action "." says
that no more do. What comes next is known by the stack of the types that are still wanted: that machine has a table of
types and actions and no other rule, so that every sequence of admissible actions is a form of the grammar (an abstract
syntax description, Wang et al. 1997; Yin and Neubig 2018, section 3.1). Whether a variable is bound is not among what
types say.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from latentia.distributions.forms import Form
from latentia.errors import DataError

STOP = "."
"""The action that ends a list."""
ANY = "*"
LISTS = 3
"""An operator that takes so many different numbers of arguments takes any number of them."""
_NUMBERED = re.compile(r"(.*?)\d+")


@dataclass(frozen=True)
class Action:
    """A way to build: `head` alone, or applied to arguments of these types; a type with "*" behind it is a list's."""

    head: str
    types: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"( {self.head} {' '.join(self.types)} )" if self.types else self.head


@dataclass
class Grammar:
    """Types and the ways to build them.

    Attributes:
        actions: all ways to build, K of them; where lists are, the last one ends a list.
        types: each type, the first that of whole forms, and for each list "name*".
        admitted: of each type, the actions that build it.
        text: the signature.
    """

    text: str
    actions: list[Action] = field(init=False)
    types: list[str] = field(init=False)
    admitted: dict[str, list[int]] = field(init=False)
    source: str = "the grammar"

    def __post_init__(self) -> None:
        lines = _lines(self.text, self.source)
        names = [name for name, *_ in lines]
        own: dict[str, list[Action]] = {}
        within: dict[str, list[str]] = {}
        for name, number, ways in lines:
            place = f"{self.source}, line {number}"
            if name in own:
                raise DataError(f"{place}: type {name!r} is written twice: give all its ways at one place")
            own[name] = [_action(way, names, place) for way in ways if not _is_type(way, names)]
            within[name] = [way[0] for way in ways if _is_type(way, names)]
        every = dict.fromkeys(action for actions in own.values() for action in actions)
        lists = dict.fromkeys(t for action in every for t in action.types if t.endswith(ANY))
        self.actions = [*every, *([Action(STOP)] if lists else [])]
        self.types = [*names, *lists]
        number_of = {action: k for k, action in enumerate(self.actions)}
        self.admitted = {n: sorted({number_of[a] for m in _closure(n, within) for a in own[m]}) for n in names}
        for name in lists:
            self.admitted[name] = [*self.admitted[name.removesuffix(ANY)], len(self.actions) - 1]
        self._by_head = {t: self._heads(t) for t in self.types}
        self.costs = self._costs()

    def _heads(self, name: str) -> dict[tuple[str, int], int]:
        """Of a type, the action for each head with so many arguments; of a list, with -1 of them."""
        found: dict[tuple[str, int], int] = {}
        for k in self.admitted[name]:
            types = self.actions[k].types
            key = (self.actions[k].head, -1 if types and types[-1].endswith(ANY) else len(types))
            if key in found:
                raise DataError(
                    f"{self.source}: type {name!r} has two ways to build {key[0]!r}, {self.actions[found[key]]} and "
                    f"{self.actions[k]}: leave one out"
                )
            found[key] = k
        return found

    def _costs(self) -> dict[str, int]:
        """The fewest actions that build each type."""
        costs = dict.fromkeys(self.types, math.inf)
        for _ in self.types:
            for name in self.types:
                ways = (1 + sum(costs[t] for t in self.actions[k].types) for k in self.admitted[name])
                costs[name] = 1 if name.endswith(ANY) else min(ways, default=math.inf)
        for name, cost in costs.items():
            if cost == math.inf:
                raise DataError(f"{self.source}: type {name!r} has no form that ever ends: give it a constant")
        return {name: int(cost) for name, cost in costs.items()}

    @property
    def root(self) -> str:
        """The type of whole forms."""
        return self.types[0]

    def copies(self, words: Iterable[str]) -> list[int]:
        """Of each word the action that is the constant of its name, -1 where none is."""
        constants = {
            action.head: k for k, action in enumerate(self.actions) if not action.types and action.head != STOP
        }
        return [constants.get(word, -1) for word in words]

    def encode(self, form: Form, source: str = "the form", most: float = math.inf) -> list[int]:
        """The actions that build a form. Raises `DataError` for one that is outside the grammar, saying what of it, or
        has more than `most` actions."""
        found: list[int] = []
        wanted: list[tuple[str, Form | None]] = [(self.root, form)]
        while wanted:
            name, part = wanted.pop()
            if part is None:
                found.append(len(self.actions) - 1)
                continue
            k = self._action_of(name, part, source)
            found.append(k)
            wanted += reversed(self._arguments(self.actions[k].types, part))
        if len(found) > most:
            raise DataError(
                f"{source}: {str(form)[:200]} has {len(found)} actions, and forms have {most} at most here: leave it "
                "out, or fit a model that has more"
            )
        return found

    def _action_of(self, name: str, part: Form, source: str) -> int:
        ways, count = self._by_head[name], len(part.parts)
        k = ways.get((part.head, count))
        if k is None and count and (part.head, -1) in ways:
            k = ways[part.head, -1]
            if count < len(self.actions[k].types) - 1:
                k = None
        if k is None:
            kind = name.removesuffix(ANY)
            heads = [str(self.actions[k]) for k in self.admitted[kind]]
            near = [head for head in heads if head == part.head or head.startswith(f"( {part.head} ")]
            known = f"it may be {', '.join(near or heads[:8])}{'' if near or len(heads) <= 8 else ', ...'}"
            raise DataError(f"{source}: {str(part)[:200]} is outside the grammar: {kind} is wanted, and {known}")
        return k

    def _arguments(self, types: Sequence[str], part: Form) -> list[tuple[str, Form | None]]:
        if not types or not types[-1].endswith(ANY):
            return list(zip(types, part.parts, strict=True))
        fixed = len(types) - 1
        more = [(types[-1], one) for one in part.parts[fixed:]]
        return [*zip(types[:fixed], part.parts, strict=False), *more, (types[-1], None)]

    def decode(self, actions: Iterable[int]) -> Form:
        """The form that actions build. Raises `DataError` where they build none."""
        given = iter(actions)
        stack: list[tuple[Action, list[Form]]] = []
        wanted = [self.root]
        for k in given:
            name = wanted.pop()
            if k not in self.admitted[name]:
                raise DataError(f"action {self.actions[k]} does not build {name}")
            action = self.actions[k]
            if name.endswith(ANY) and action.head != STOP:
                wanted.append(name)
            if action.head == STOP:
                # lists are last, so that what has a list is over with it
                action, parts = stack.pop()
                done = Form(action.head, tuple(parts))
            elif action.types:
                stack.append((action, []))
                wanted += reversed(action.types)
                continue
            else:
                done = Form(action.head)
            while stack:
                action, parts = stack[-1]
                parts.append(done)
                if action.types[-1].endswith(ANY) or len(parts) < len(action.types):
                    break
                stack.pop()
                done = Form(action.head, tuple(parts))
            if not wanted:
                return done
        raise DataError("the actions end before the form does")

    def every(self, most: int) -> Iterator[list[int]]:
        """All forms of at most so many actions, as their actions."""

        def grow(done: list[int], wanted: list[str], owed: int) -> Iterator[list[int]]:
            if not wanted:
                yield done
                return
            *rest, name = wanted
            for k in self.admitted[name]:
                again = [name] if name.endswith(ANY) and self.actions[k].head != STOP else []
                new = [*again, *reversed(self.actions[k].types)]
                total = owed - self.costs[name] + sum(self.costs[t] for t in new)
                if len(done) + 1 + total <= most:
                    yield from grow([*done, k], [*rest, *new], total)

        yield from grow([], [self.root], self.costs[self.root])


def _lines(text: str, source: str) -> list[tuple[str, int, list[list[str]]]]:
    """Each type, its line, and its ways as lists of words."""
    found: list[tuple[str, int, list[str]]] = []
    for number, line in enumerate(text.split("\n"), 1):
        words = line.partition("#")[0].split()
        if words and words[0] == "|" and found:
            found[-1][2].extend(words)
        elif words:
            if len(words) < 3 or words[1] != "=":
                raise DataError(f"{source}, line {number}: write TYPE = WAY | WAY, with spaces between")
            found.append((words[0], number, words[2:]))
    if not found:
        raise DataError(f"{source} is empty: write TYPE = WAY | WAY, a line for each type")
    return [(name, number, _ways(words)) for name, number, words in found]


def _ways(words: list[str]) -> list[list[str]]:
    ways: list[list[str]] = [[]]
    for word in words:
        ways.append([]) if word == "|" else ways[-1].append(word)
    return ways


def _is_type(way: list[str], names: Sequence[str]) -> bool:
    return len(way) == 1 and way[0] in names


def _action(way: list[str], names: Sequence[str], place: str) -> Action:
    if len(way) == 1 and way[0] not in "().":
        return Action(way[0])
    if len(way) < 4 or way[0] != "(" or way[-1] != ")" or way[1] in "()":
        raise DataError(
            f"{place}: {' '.join(way) or 'an empty way'!r} is no way to build: write a constant, a type, or "
            "( WORD TYPE ... )"
        )
    head, types = way[1], way[2:-1]
    last = types[-1].rstrip("+*") if types[-1] not in names else types[-1]
    for name in [*types[:-1], last]:
        if name not in names:
            raise DataError(f"{place}: {name!r} in {' '.join(way)} is no type: give it a line of its own")
    more = types[-1].removeprefix(last)
    ends = {"": (last,), "+": (last, last + ANY), "*": (last + ANY,)}
    if more not in ends or (more == "*" and len(types) == 1):
        raise DataError(f"{place}: {types[-1]!r}: one '+' may stand behind the last type, or '*' behind others")
    return Action(head, (*types[:-1], *ends[more]))


def _closure(name: str, within: dict[str, list[str]]) -> list[str]:
    """A type and all that are ways of it."""
    found, left = {name: None}, [name]
    while left:
        for other in within[left.pop()]:
            if other not in found:
                found[other] = None
                left.append(other)
    return list(found)


def is_variable(word: str) -> bool:
    return word.startswith("$")


class _Classes:
    """Disjoint sets that are joined."""

    def __init__(self):
        self.up: dict[object, object] = {}

    def find(self, one: object) -> object:
        self.up.setdefault(one, one)
        while self.up[one] != one:
            self.up[one] = one = self.up[self.up[one]]
        return one

    def join(self, one: object, other: object) -> None:
        self.up[self.find(one)] = self.find(other)


def induce(forms: Iterable[Form], words: Iterable[str] = ()) -> Grammar:
    """The signature that forms imply: what fills the same argument of the same word is of one type.

    Words that begin with "$" are variables, a type of their own, which an argument admits where one was seen. A word
    with three or more different numbers of arguments takes any number of one type; with fewer it has a way for each.

    Args:
        words: of sentences. One that is a known constant but for its number (ci3, where ci0 is one) is a constant too.

    Raises:
        DataError: there are no forms.
    """
    forms = list(forms)
    if not forms:
        raise DataError("there is not one form to tell a grammar from")
    counts: dict[str, set[int]] = defaultdict(set)
    nodes = [node for form in forms for node in _nodes(form)]
    for node in nodes:
        if node.parts:
            counts[node.head].add(len(node.parts))
    classes = _Classes()
    variable: set[object] = set()
    fillers: list[tuple[object, Form]] = [("root", form) for form in forms]
    for node in nodes:
        fillers += [(_slot(node, i, counts), part) for i, part in enumerate(node.parts)]
    for slot, part in fillers:
        classes.find(slot)
        variable.add(slot) if is_variable(part.head) and not part.parts else classes.join(slot, _maker(part, counts))
    constants = {part.head for _, part in fillers if not part.parts}
    stems = {m[1]: word for word in sorted(constants) if (m := _NUMBERED.fullmatch(word)) and not is_variable(word)}
    for word in sorted(set(words) - constants):
        if (match := _NUMBERED.fullmatch(word)) and match[1] in stems:
            classes.join(("", word, 0), ("", stems[match[1]], 0))
    return _signature(classes, variable, counts, sorted(word for word in constants if is_variable(word)))


def _nodes(form: Form) -> Iterator[Form]:
    left = [form]
    while left:
        node = left.pop()
        yield node
        left += reversed(node.parts)


def _maker(part: Form, counts: dict[str, set[int]]) -> tuple[str, str, int]:
    """What builds a part: the same for all numbers of arguments, where any number may come."""
    many = len(counts[part.head]) >= LISTS if part.parts else False
    return ("(" if part.parts else "", part.head, -1 if many else len(part.parts))


def _slot(node: Form, i: int, counts: dict[str, set[int]]) -> object:
    maker = _maker(node, counts)
    return (maker, 0 if maker[2] == -1 else i)


def _signature(classes: _Classes, variable: set[object], counts: dict[str, set[int]], names: list[str]) -> Grammar:
    """Types are classes, each with variables or without."""
    makers = sorted((one for one in classes.up if isinstance(one, tuple) and isinstance(one[0], str)), key=str)
    members: dict[object, list[tuple[str, str, int]]] = defaultdict(list)
    for maker in makers:
        members[classes.find(maker)].append(maker)
    base = {top: f"t{i}" for i, top in enumerate(members, 1)}

    def named(slot: object) -> str:
        top = classes.find(slot)
        if slot not in variable:
            return base[top]
        return f"{base[top]}_or_var" if top in base else "var"

    def way(maker: tuple[str, str, int]) -> str:
        bracket, head, count = maker
        if not bracket:
            return head
        types = [f"{named((maker, 0))}+"] if count == -1 else [named((maker, i)) for i in range(count)]
        return f"( {head} {' '.join(types)} )"

    lines = {base[top]: [way(maker) for maker in found] for top, found in members.items()}
    slots = [one for one in classes.up if one == "root" or (isinstance(one, tuple) and isinstance(one[0], tuple))]
    for slot in slots:
        if slot in variable and classes.find(slot) in base:
            lines[named(slot)] = [base[classes.find(slot)], "var"]
    if names:
        lines["var"] = names
    ordered = {"form": [named("root")], **lines}
    return Grammar("\n".join(f"{name} = {' | '.join(ways)}" for name, ways in ordered.items()), source="the forms")
