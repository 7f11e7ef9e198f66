"""Writes the source of one random program, statement by statement."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any


class Writer:
    """Writes one program; every choice comes from the seed."""

    def __init__(self, seed: int, left_out: frozenset[str], forced: str) -> None:
        self.rng = random.Random(seed)
        self.left_out, self.forced = left_out, forced
        self.features: set[str] = set()
        self.lines: list[str] = []
        self.observed: list[str] = []
        self.reals: list[str] = []
        self.count = {"z": 0, "y": 0, "p": 0, "k": 0, "c": 0, "f": 0}
        self.indent, self.nesting, self.rows = 1, 1, ""
        self.shape: tuple[int, ...] = ()
        self.suffix, self.index, self.counts = (
            "",
            "",
            True,
        )  # of names in a loop; of data in a subsample; whether unmasked
        self.has_discrete = False  # one discrete latent a branch, so that a sum over all assignments stays small
        self.loop_size, self.inline = 0, False
        self.moving: set[str] = set()  # computed from discrete latents
        self.literal = True  # whether shapes may be written out, which fixes the size of a minibatch

    def use(self, feature: str, chance: float) -> bool:
        """Whether the program gets a feature."""
        drawn = self.rng.random() < chance  # drawn in any case, so that other choices do not depend on what is left out
        chosen = feature not in self.left_out and (drawn or feature == self.forced)
        if chosen:
            self.features.add(feature)
        return chosen

    def name(self, kind: str) -> str:
        """A new name."""
        self.count[kind] += 1
        return f"{kind}{self.count[kind]}"

    def write(self, line: str) -> None:
        """One line at the depth of the moment."""
        self.lines.append("    " * self.indent + line)

    @contextmanager
    def block(self, line: str) -> Any:
        """A compound statement; what was drawn inside is not seen outside."""
        self.write(line)
        kept = list(self.reals)
        self.indent += 1
        yield
        self.indent -= 1
        self.reals = kept

    def real(self) -> str:
        """An expression on the real line, of moderate size."""
        if not self.reals:
            return f"{self.rng.uniform(-1, 1):.2f}"
        one, other = self.rng.choice(self.reals[-2:]), self.rng.choice(self.reals)
        return self.rng.choice(
            [one, f"0.5 * {one} - 0.3 * {other}", f"torch.tanh({one})", f"torch.sin({one}) + {other}"]
        )

    def positive(self) -> str:
        """A positive expression."""
        if not self.reals or self.rng.random() < 0.4:
            return f"{self.rng.uniform(0.5, 2):.2f}"
        return self.rng.choice(["torch.exp(0.3 * torch.tanh({}))", "torch.nn.functional.softplus({})"]).format(
            self.real()
        )

    def law(self) -> tuple[str, str]:
        """A continuous distribution, and the name pattern of its value on the real line."""
        r, p, q = self.real(), self.positive(), self.positive()
        laws = [
            (f"dist.Normal({r}, {p})", "{}"),
            (f"dist.LogNormal({r}, {p})", "torch.log({})"),
            (f"dist.Gamma({p}, {q})", "torch.log({})"),
            (f"dist.Exponential({p})", "torch.log({})"),
            (f"dist.HalfNormal({p})", "torch.log({})"),
            (f"dist.Beta({p}, {q})", "torch.logit({})"),
            (f"dist.StudentT(4.0, {r}, {p})", "{}"),
            (self.uniform(r, p), "{}"),
            (f"dist.Laplace({r}, {p})", "{}"),
        ]
        if self.use("transform", 0.15):
            base = f"dist.Normal({r}, {p})"
            return f"dist.TransformedDistribution({base}, [dist.transforms.ExpTransform()])", "torch.log({})"
        if self.use("validate", 0.05):
            return f"dist.Normal({r}, {p}, validate_args=True)", "{}"
        return self.rng.choice(laws)

    def uniform(self, low: str, width: str) -> str:
        """A uniform distribution, whose bounds do not move with a discrete latent."""
        moves = self.moves(low) or self.moves(width)
        if moves:  # the corpus has a program for that: its reference is a sum over every assignment
            low, width = "-1.0", "2.5"
        return f"dist.Uniform(torch.as_tensor({low}), {low} + {width})"

    def moves(self, expression: str) -> bool:
        """Whether an expression depends on a discrete latent other than through what was drawn."""
        return any(name in self.moving or name[0] in "kc" for name in re.findall(r"[kcz]\d*", expression))

    def seen(self) -> tuple[str, Callable[[], float]]:
        """An observed distribution, and what draws a datum that it allows."""
        r, p = self.real(), self.positive()
        rng = self.rng
        laws: list[tuple[str, Callable[[], float]]] = [
            (f"dist.Normal({r}, {p})", lambda: rng.gauss(0, 1)),
            (f"dist.Exponential({p})", lambda: rng.expovariate(1)),
            (f"dist.Bernoulli(logits=torch.as_tensor({r}))", lambda: float(rng.random() < 0.5)),
            (f"dist.Poisson({p})", lambda: float(rng.randrange(5))),
            (f"dist.Binomial(4, logits=torch.as_tensor({r}))", lambda: float(rng.randrange(5))),
            (f"dist.StudentT(3.0, {r}, {p})", lambda: rng.gauss(0, 1)),
        ]
        if self.use("transform", 0.1):
            base = f"dist.Normal({r}, {p})"
            affine = "dist.transforms.AffineTransform(0.2, 1.5)"
            return f"dist.TransformedDistribution({base}, [{affine}])", lambda: rng.gauss(0, 1)
        return rng.choice(laws)

    def expanded(self, law: str) -> str:
        """The distribution, perhaps with the shape of the plates, which enumeration does not stretch."""
        wanted = (
            self.rng.random() < 0.2
            and self.literal
            and self.shape
            and not self.suffix
            and not self.index
            and not self.has_discrete
        )
        return f"{law}.expand({list(self.shape)})" if wanted else law

    def latent(self) -> None:
        """A continuous latent."""
        name = self.name("z")
        law, on_line = self.law()
        site = f'"{name}"' if not self.suffix else f'f"{name}_{self.suffix}"'
        if self.use("event", 0.15):
            loc = f"torch.as_tensor({self.real()}).unsqueeze(-1) + torch.zeros(2)"
            law = f"dist.Normal({loc}, {self.rng.uniform(0.5, 2):.2f}).to_event(1)"
            on_line = "{}[..., 0]"
        else:
            law = self.expanded(law)
        self.write(f"{name} = pyro.sample({site}, {law})")
        self.reals.append(on_line.format(name))
        if self.use("delta", 0.08):
            point = self.name("z")
            site = f'"{point}"' if not self.suffix else f'f"{point}_{self.suffix}"'
            self.write(
                f"{point} = pyro.sample({site}, dist.Delta({self.reals[-1]}, log_density=-({self.reals[-1]} ** 2)))"
            )
            self.note(point, self.reals[-1])
        if self.use("deterministic", 0.15) and not self.suffix:
            other = self.name("z")
            self.write(f'{other} = pyro.deterministic("{other}", torch.tanh({self.reals[-1]}))')
            self.note(other, self.reals[-1])

    def note(self, name: str, source: str) -> None:
        """A value that was computed from another."""
        self.moving |= {name} if self.moves(source) else set()
        self.reals.append(name)

    def discrete(self) -> None:
        """A discrete latent, and what it picks."""
        name = self.name("k")
        site = f'"{name}"' if not self.suffix else f'f"{name}_{self.suffix}"'
        if self.rng.random() < 0.5:
            law = f"dist.Bernoulli(logits=torch.as_tensor({self.real()}))"
        else:
            law = "dist.Categorical(torch.tensor([0.2, 0.5, 0.3]))"
        self.write(f"{name} = pyro.sample({site}, {law})")
        self.has_discrete = True
        picked = f"torch.tensor([-1.0, 0.5, 2.0])[{name}.long()]"
        self.reals += [picked, f"{name} * {self.real()}"]

    def data(self, draw: Callable[[], float], shape: tuple[int, ...], holes: bool) -> str:
        """A literal of random data."""
        if not shape:
            return f"torch.tensor({draw():.3f})"

        def nested(shape: tuple[int, ...]) -> str:
            if not shape:
                return "nan" if holes and self.rng.random() < 0.3 else f"{draw():.3f}"
            return "[" + ", ".join(nested(shape[1:]) for _ in range(shape[0])) + "]"

        return f"torch.tensor({nested(shape)})"

    def observation(self) -> None:
        """An observed site, its data in the program or given to ``observe``."""
        name = self.name("y")
        law, draw = self.seen()
        holes = (
            bool(self.shape)
            and not self.suffix
            and self.counts
            and not self.index
            and not self.inline
            and self.use("missing", 0.1)
        )
        if holes:
            law, draw = f"dist.Normal({self.real()}, {self.positive()})", lambda: self.rng.gauss(0, 1)
        if (
            self.shape
            and self.literal
            and not (holes or self.index or self.suffix)
            and self.use("distribution mask", 0.1)
        ):
            law = f"{law}.mask({self.mask()})"
        else:
            law = self.expanded(law)
        if self.suffix:
            n = self.loop_size
            values = self.data(draw, (n,), False)
            self.write(f'pyro.sample(f"{name}_{self.suffix}", {law}, obs={values}[{self.suffix}])')
            return
        values = self.data(draw, self.shape, holes)
        if self.index or self.inline or (not holes and self.literal and self.rng.random() < 0.4):
            self.write(f'pyro.sample("{name}", {law}, obs={values}{self.index})')
        else:
            self.observed.append(f'"{name}": {values}')
            self.write(f'pyro.sample("{name}", {law})')

    def mask(self) -> str:
        """A literal mask of the shape of the plates."""

        def nested(shape: tuple[int, ...]) -> str:
            return (
                "[" + ", ".join(nested(shape[1:]) for _ in range(shape[0])) + "]"
                if shape
                else str(self.rng.random() < 0.6)
            )

        return f"torch.tensor({nested(self.shape)})"

    def inside(self, depth: int = 0) -> None:
        """What stands in a plate: latents, handlers around data, a factor."""
        for _ in range(self.rng.randrange(0, 3)):
            self.latent()
        if not self.has_discrete and self.use("discrete", 0.4):
            self.discrete()
        handler = ""
        if self.shape and self.literal and not self.suffix and not self.index and self.use("mask", 0.2):
            handler = f"poutine.mask(mask={self.mask()})"
        elif not self.has_discrete and self.use("scale", 0.2):
            handler = f"poutine.scale(scale={self.rng.uniform(0.3, 3):.2f})"
        if handler:
            with self.block(f"with {handler}:"):
                kept, self.counts = self.counts, "mask" not in handler
                if "mask" in handler and not self.has_discrete and self.use("masked discrete", 0.2):
                    self.discrete()
                if self.use("handled latent", 0.3):
                    self.latent()
                self.observation()
                self.counts = kept
        for _ in range(self.rng.randrange(0 if handler else 1, 3)):
            self.observation()
        if not self.suffix and self.use("factor", 0.15):
            self.write(f'pyro.factor("{self.name("f")}", -0.3 * torch.as_tensor({self.real()}) ** 2)')

    def plate(self) -> None:
        """One plate, perhaps with another inside."""
        name, size = self.name("p"), self.rng.choice([2, 3, 4])
        before = self.has_discrete
        if self.use("nested", 0.25):
            self.nesting, inner = 2, self.rng.choice([2, 3])
            with self.block(f'with pyro.plate("{name}", {size}, dim=-2):'):
                self.shape = (size, 1)
                if self.rng.random() < 0.7:
                    self.latent()
                if not before and self.use("discrete", 0.2):
                    self.discrete()
                with self.block(f'with pyro.plate("{self.name("p")}", {inner}, dim=-1):'):
                    self.shape = (size, inner)
                    self.inside()
        elif self.use("subsample", 0.1):
            with self.block(f'with pyro.plate("{name}", {size}, subsample_size=2, dim=-1) as i:'):
                self.shape, self.index = (size,), "[i]"
                self.observation()
                self.index = ""
        elif self.use("unsized", 0.05):
            with self.block(f'with pyro.plate("{name}", dim=-1):  # of size {size}'):
                self.shape = (size,)
                if not before and self.use("discrete", 0.5):
                    self.write(f'k = pyro.sample("k", dist.Bernoulli(torch.full(({size},), 0.4)))')
                    self.reals.append("k")
                    self.has_discrete = True
                self.inline = True
                self.observation()
                self.inline = False
        else:
            self.literal = bool(self.rows) or self.rng.random() < 0.3
            self.rows = self.rows if self.literal else name
            with self.block(f'with pyro.plate("{name}", {size}, dim=-1):'):
                self.shape = (size,)
                self.inside()
            self.literal = True
        self.shape, self.has_discrete = (), before

    def loop(self) -> None:
        """A plate by loop."""
        name, self.loop_size = self.name("p"), self.rng.choice([2, 3])
        before = self.has_discrete
        with self.block(f'for i in pyro.plate("{name}", {self.loop_size}):'):
            self.suffix = "i"
            for _ in range(self.rng.randrange(0, 2)):
                self.loop_site(self.latent)
            if self.use("discrete", 0.3):
                self.loop_site(self.discrete)
            self.loop_site(self.observation)
        self.suffix, self.has_discrete = "", before

    def loop_site(self, write: Callable[[], None]) -> None:
        """A site whose name ends in the number of the element."""
        start = len(self.lines)
        write()
        self.lines[start:] = [line.replace('_i"', '_{i}"') for line in self.lines[start:]]

    def crossed(self) -> None:
        """Two plates that cross."""
        self.nesting = 2
        a, b, n, m = self.name("p"), self.name("p"), self.rng.choice([2, 3]), self.rng.choice([2, 3])
        self.write(f'{a} = pyro.plate("{a}", {n}, dim=-2)')
        self.write(f'{b} = pyro.plate("{b}", {m}, dim=-1)')
        before, known = list(self.reals), list[str]()
        for plate, shape in ((a, (n, 1)), (b, (m,))):
            inner = list(before)
            with self.block(f"with {plate}:"):
                self.shape = shape
                self.latent()
                inner = self.reals
            known += inner[len(before) :]
        self.reals = before + known
        with self.block(f"with {a}, {b}:"):
            self.shape = (n, m)
            self.observation()
        self.shape, self.reals = (), before

    def chain(self) -> None:
        """A chain of discrete or continuous states under ``pyro.markov``."""
        name, is_discrete = self.name("c"), not self.has_discrete and self.rng.random() < 0.6
        self.write(f"{name} = torch.tensor(0{'' if is_discrete else '.0'})")
        with self.block("for i in pyro.markov(range(3)):"):
            if is_discrete:
                law = f"dist.Categorical(torch.tensor([[0.7, 0.3], [0.4, 0.6]])[{name}])"
                self.write(f'{name} = pyro.sample(f"{name}_{{i}}", {law})')
            else:
                self.write(f'{name} = pyro.sample(f"{name}_{{i}}", dist.Normal(0.8 * {name}, {self.positive()}))')
            mean = f"{name} * {self.real()}" if is_discrete else name
            values = self.data(lambda: self.rng.gauss(0, 1), (3,), False)
            self.write(f'pyro.sample(f"{name}_seen_{{i}}", dist.Normal({mean}, 1.0), obs={values}[i])')

    def compose(self) -> str:
        """The source of the program."""
        for _ in range(self.rng.randrange(1, 4)):
            self.latent()
        self.use("small batch", 0.5)
        if self.use("global discrete", 0.1):
            self.discrete()
        if self.use("factor", 0.1):
            self.write(f'pyro.factor("{self.name("f")}", -0.2 * torch.as_tensor({self.real()}) ** 2)')
        for _ in range(self.rng.randrange(1, 3)):
            kinds: list[tuple[str, Callable[[], None]]] = [
                ("loop", self.loop),
                ("markov", self.chain),
                ("crossed", self.crossed),
            ]
            kind, write = self.rng.choice(kinds)
            (write if self.use(kind, 0.35) else self.plate)()
        body = "\n".join(self.lines)
        source = f"def program():\n{body}\n\nobserved = {{{', '.join(self.observed)}}}\n"
        if self.features & {"subsample", "unsized"}:
            sized = re.sub(r"dim=-1\):  # of size (\d)", r"size=\1, dim=-1):", body)
            source += "\ndef whole():\n" + sized.replace(", subsample_size=2", "") + "\n"
        return source
