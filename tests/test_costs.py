"""Prices with their dates; estimates that know what they do not know."""

from __future__ import annotations

import copy
import json
import math
import random
import zipfile
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import settings as trying
from hypothesis import strategies as st
from PIL import Image

from spaceport_lab import costs, runcard
from spaceport_lab.costs import prices
from spaceport_lab.costs.estimates import ENOUGH
from spaceport_lab.errors import ParamsError
from spaceport_lab.params import STAGES

HERE = "ml.g5.xlarge"


def card(
    n: int, megapixels: float = 12.0, steps: int = 7000, factor: float = 1.0, instance: str = HERE
) -> dict:
    """A run whose stages take a known time, times a factor."""
    stages = {
        "ingest": 0.05 * n * megapixels,
        "sfm": 0.02 * (n * megapixels) ** 1.3,
        "train": 0.001 * (steps * megapixels) ** 0.9,
        "compress": 3 * (n * megapixels) ** 0.2,
        "inspect": 0.1 * n * megapixels,
    }
    made = {"status": "succeeded", "instance": instance, "work": {"megapixels": megapixels}}
    made["stages"] = {
        name: {"status": "succeeded", "seconds": factor * s, "metrics": {}} for name, s in stages.items()
    }
    made["stages"]["ingest"]["metrics"] = {"n_used": n}
    made["stages"]["train"]["metrics"] = {"steps": steps}
    return made


def total(one: dict) -> float:
    return sum(stage["seconds"] for stage in one["stages"].values())


RAN = [(50, 12, 7000), (100, 12, 7000), (200, 12, 15000), (400, 20, 30000), (80, 20, 7000), (150, 48, 15000)]
SEEN = [card(*run) for run in RAN]


@pytest.fixture(autouse=True)
def _no_machine_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPACEPORT_PRICES", "SPACEPORT_INSTANCE", "SPACEPORT_REGION", "SM_CURRENT_INSTANCE_TYPE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)


FACTOR = st.floats(0.01, 100)
RUNS = st.lists(
    st.tuples(st.integers(1, 5000), st.floats(0.1, 100), st.integers(1, 100_000), FACTOR),
    min_size=1,
    max_size=9,
)


class TestPrices:
    def test_every_figure_has_a_date_and_a_source(self) -> None:
        known = prices.load()
        assert known.prices
        for price in known.prices:
            assert date(2026, 1, 1) <= price.date <= date(2030, 1, 1)
            assert len(price.source) > 20
            assert 0.05 < float(price) < 50
            assert price.instance.startswith("ml.")
        assert known.spot is not None

    def test_a_price(self) -> None:
        price = costs.price_of("ml.g4dn.xlarge", "us-west-2")
        assert price is not None
        assert (float(price), price.date) == (0.7364, date(2026, 9, 1))

    @pytest.mark.parametrize(
        ("instance", "region"), [("ml.g4dn.xlarge", "mars-1"), ("ml.x", "us-west-2"), ("", "")]
    )
    def test_unknown_is_not_free(self, instance: str, region: str) -> None:
        assert costs.price_of(instance, region) is None

    def test_the_cheapest_first(self) -> None:
        names = costs.instances("us-west-2")
        paid = [float(costs.price_of(name, "us-west-2")) for name in names]  # type: ignore[arg-type]
        assert paid == sorted(paid)
        assert costs.instances("nowhere") == []

    def test_a_file_of_ones_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        mine = {
            "instance": "bench",
            "region": "home",
            "usd_per_hour": 0.1,
            "date": "2026-11-01",
            "from": "the meter",
        }
        path = tmp_path / "prices.yaml"
        path.write_text(yaml.safe_dump({"currency": "USD", "prices": [mine]}))
        monkeypatch.setenv("SPACEPORT_PRICES", str(path))
        assert float(costs.price_of("bench", "home")) == 0.1  # type: ignore[arg-type]
        assert costs.price_of("ml.g4dn.xlarge", "us-west-2") is None
        path.write_text(yaml.safe_dump({"currency": "USD", "prices": [mine | {"usd_per_hour": 0.25}]}))
        assert float(costs.price_of("bench", "home")) == 0.25  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "change",
        [{"date": None}, {"from": ""}, {"usd_per_hour": 0}, {"usd_per_hour": math.nan},
         {"usd_per_hour": "cheap"}, {"currency": "EUR"}, {"surprise": 1}, {"twice": True},
         {"yaml": "a: [b"}, {"yaml": "3"}],
    )  # fmt: skip
    def test_a_file_that_cannot_be_used(self, change: dict, tmp_path: Path) -> None:
        mine = {
            "instance": "b",
            "region": "h",
            "usd_per_hour": 0.1,
            "date": "2026-11-01",
            "from": "the meter",
        }
        whole = {
            "currency": change.pop("currency", "USD"),
            "prices": [mine] * (2 if change.pop("twice", 0) else 1),
        }
        text = change.pop("yaml", None)
        mine.update(change)
        path = tmp_path / "prices.yaml"
        path.write_text(text or yaml.safe_dump(whole))
        with pytest.raises(ParamsError):
            prices.load(path)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ParamsError, match="cannot be read"):
            prices.load(tmp_path / "none.yaml")


class TestEstimates:
    def test_a_law_is_found_again(self) -> None:
        for n, m, s in [(120, 12, 7000), (300, 20, 15000), (60, 48, 30000)]:
            made = costs.estimate(SEEN, n, m, s, HERE)
            assert made is not None
            assert (made.method, made.n_runs) == ("fitted", 6)
            true = total(card(n, m, s))
            assert made.seconds.mid == pytest.approx(true, rel=0.05)
            assert made.seconds.low <= true <= made.seconds.high

    def test_never_run_there_is_unknown(self) -> None:
        assert costs.estimate([], 100, 12, 7000, HERE) is None
        assert costs.estimate(SEEN, 100, 12, 7000, "ml.g6.xlarge") is None
        failed = [copy.deepcopy(one) for one in SEEN]
        for one in failed:
            one["stages"]["train"]["status"] = "failed"
        assert costs.estimate(failed, 100, 12, 7000, HERE) is None
        assert costs.estimate(failed, 100, 12, 7000, HERE, stages=("ingest", "sfm")) is not None

    @pytest.mark.parametrize(
        ("n", "m", "s"), [(0, 12, 1), (-1, 12, 1), (10, 0, 1), (10, math.nan, 1), (10, 12, 0)]
    )
    def test_nonsense_is_unknown(self, n: int, m: float, s: int) -> None:
        assert costs.estimate(SEEN, n, m, s, HERE) is None

    def test_cards_without_what_is_needed_are_passed_over(self) -> None:
        odd: list[dict] = [
            {},
            {"stages": {}},
            {"stages": {"sfm": None}},
            {"stages": {"ingest": {"metrics": {"n_used": "x"}}}},
        ]
        bare = copy.deepcopy(SEEN[0])
        del bare["work"]
        reused = copy.deepcopy(SEEN[0])
        for stage in reused["stages"].values():
            stage |= {"reused_from": "other", "seconds": 1e6}
        assert costs.estimate([*SEEN, *odd, bare, reused], 100, 12, 7000, HERE) == costs.estimate(
            SEEN, 100, 12, 7000, HERE
        )

    def test_few_runs_scale_the_nearest_with_a_wide_range(self) -> None:
        made = costs.estimate([SEEN[0], SEEN[3]], 50, 12, 7000, HERE)
        assert made is not None
        assert (made.method, made.n_runs) == ("nearest", 2)
        assert made.seconds.mid == pytest.approx(total(SEEN[0]))
        assert made.seconds.high / made.seconds.low == pytest.approx(4.0)
        far = costs.estimate([SEEN[0]], 5000, 12, 7000, HERE)
        assert far is not None
        assert far.seconds.high / far.seconds.low > 10

    def test_one_run_gone_wrong_hardly_matters(self) -> None:
        for odd in (
            card(100, 12, 7000, factor=100),
            card(900, 48, 60_000, factor=100),
            card(20, 5, 500, factor=0.01),
        ):
            for n, m, s in [(120, 12, 7000), (400, 20, 30_000)]:
                right, wrong = (costs.estimate(seen, n, m, s, HERE) for seen in (SEEN, [*SEEN, odd]))
                assert right is not None
                assert wrong is not None
                assert wrong.seconds.mid == pytest.approx(right.seconds.mid, rel=0.3)

    def test_the_range_holds_what_it_promises(self) -> None:
        """Of runs that scatter nine of ten lie in the range, or more, since the stages' doubts are added."""
        rng = random.Random(7)

        def noisy(n: int) -> dict:
            return card(n, 12, 7000, factor=math.exp(rng.gauss(0, 0.2)))

        inside = 0
        for _ in range(120):
            seen = [noisy(rng.randint(40, 400)) for _ in range(8)]
            n = rng.randint(50, 350)
            made = costs.estimate(seen, n, 12, 7000, HERE)
            assert made is not None
            inside += made.seconds.low <= total(noisy(n)) <= made.seconds.high
        assert inside >= 0.8 * 120

    @trying(max_examples=80, deadline=None)
    @given(RUNS, st.integers(1, 10_000), st.floats(0.1, 200), st.integers(1, 200_000), FACTOR, st.randoms())
    def test_what_always_holds(
        self, runs: list, n: int, m: float, s: int, k: float, rng: random.Random
    ) -> None:
        seen = [card(*run) for run in runs]
        made = costs.estimate(seen, n, m, s, HERE, usd_per_hour=2.0)
        assert made is not None
        assert 0 <= made.seconds.low <= made.seconds.mid <= made.seconds.high < math.inf
        assert made.usd is not None
        assert made.usd_spot is not None
        assert made.usd.mid == pytest.approx(made.seconds.mid / 1800)
        assert made.usd_spot.high <= made.usd.high
        assert made.n_runs == len(seen)
        assert made.method == ("fitted" if len(seen) >= ENOUGH else "nearest")
        # The order of the runs says nothing.
        shuffled = list(seen)
        rng.shuffle(shuffled)
        assert costs.estimate(shuffled, n, m, s, HERE, usd_per_hour=2.0) == made
        # A machine k times as slow takes k times as long.
        slow = costs.estimate([card(a, b, c, d * k) for a, b, c, d in runs], n, m, s, HERE)
        assert slow is not None
        assert slow.seconds.mid == pytest.approx(k * made.seconds.mid, rel=1e-6)
        # More work never takes less time, once there is a law.
        if made.method == "fitted":
            more = costs.estimate(seen, 2 * n, m, 2 * s, HERE)
            assert more is not None
            assert more.seconds.mid >= made.seconds.mid * (1 - 1e-9)

    def test_money(self) -> None:
        made = costs.estimate(SEEN, 100, 12, 7000, HERE, region="us-west-2")
        assert made is not None
        assert made.usd is not None
        assert made.price is not None
        assert made.usd.mid == pytest.approx(made.seconds.mid * 1.408 / 3600)
        unpriced = costs.estimate(SEEN, 100, 12, 7000, HERE, region="mars-1")
        assert unpriced is not None
        assert (unpriced.usd, unpriced.usd_spot, unpriced.price) == (None, None, None)

    def test_one_for_each_machine(self) -> None:
        own = [card(100, instance="a bench of ours")]
        found = costs.estimates([*SEEN, *own], 100, 12, 7000, "us-west-2")
        assert found["ml.g4dn.xlarge"] is None
        assert found[HERE] is not None
        assert found["a bench of ours"] is not None
        assert found["a bench of ours"].usd is None

    def test_against_what_came(self) -> None:
        made = costs.estimate(SEEN, 100, 12, 7000, HERE, usd_per_hour=3.6)
        assert made is not None
        told = costs.against({"seconds": 2 * made.seconds.mid, "cost": made.usd.mid}, made)  # type: ignore[union-attr]
        json.dumps(told, allow_nan=False)
        assert told["seconds"]["ratio"] == 2.0
        assert told["seconds"]["within"] == (2 * made.seconds.mid <= made.seconds.high)
        assert told["usd"]["ratio"] == 1.0
        assert told["usd"]["within"] is True
        unpriced = costs.estimate(SEEN, 100, 12, 7000, HERE)
        assert unpriced is not None
        assert costs.against({"seconds": None}, unpriced)["usd"] is None


class TestCards:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        root = tmp_path / "data" / "site" / "runs" / "site-1"

        def fill(one: dict) -> None:
            one.update({k: v for k, v in card(3).items() if k in ("status", "stages")})

        runcard.update(root, fill)
        sizes = [("used", 4000, 3000), ("used", 2000, 1000), ("blurred", 9000, 9000), ("used", None, 5)]
        photos = [dict(zip(("status", "width", "height"), one, strict=True)) for one in sizes]
        (root / "01_ingest").mkdir()
        (root / "01_ingest" / "photos.json").write_text(json.dumps({"photos": photos}))
        return root

    def test_the_size_of_photographs_is_read_from_the_run(self, root: Path) -> None:
        before = (root / "run.json").read_bytes()
        (found,) = costs.read_cards(root.parents[2])
        assert costs.work_of(found) == costs.Work(3, 7.0, 7000)
        assert costs.machine_of(found).endswith("cores")
        assert (root / "run.json").read_bytes() == before

    @pytest.mark.parametrize("text", ["", "[]", '{"photos": 3}', '{"photos": [1]}', '{"photos": []}'])
    def test_without_a_size_the_work_is_unknown(self, root: Path, text: str) -> None:
        (root / "01_ingest" / "photos.json").write_text(text)
        (found,) = costs.read_cards(root.parents[2])
        assert costs.work_of(found) is None

    def test_torn_cards_are_passed_over(self, root: Path) -> None:
        for name, text in (("torn", '{"job"'), ("list", "[]"), ("odd", '{"stages": 3}')):
            (root.parent / name).mkdir()
            (root.parent / name / "run.json").write_text(text)
        assert len(costs.read_cards(root.parents[2])) == 1

    def test_a_note_prices_the_run(self, root: Path) -> None:
        noted = runcard.update(root, lambda one: costs.note(one, root, instance=HERE, region="us-west-2"))
        assert noted["price"]["date"] == "2026-09-01"
        assert noted["cost"] == pytest.approx(total(noted) * 1.408 / 3600, abs=3e-4)
        assert (noted["instance"], noted["work"]) == (HERE, {"megapixels": 7.0})
        assert json.loads((root / "run.json").read_text()) == noted
        assert costs.estimate(costs.read_cards(root.parents[2]), 3, 7, 7000, HERE) is not None

    def test_what_somebody_said_wins_over_the_file(self, root: Path) -> None:
        noted = runcard.update(
            root, lambda one: costs.note(one, instance=HERE, region="us-west-2", usd_per_hour=9.0)
        )
        assert noted["usd_per_hour"] == 9.0

    def test_an_unknown_machine_has_no_cost(self, root: Path) -> None:
        noted = runcard.update(root, lambda one: costs.note(one, root))
        assert "cost" not in noted

    def test_after_a_run_what_earlier_ones_would_have_said(self, root: Path) -> None:
        earlier = [one | {"job": f"other-{n}"} for n, one in enumerate(SEEN)]

        def change(one: dict) -> None:
            costs.note(one, root, instance=HERE, region="us-west-2", earlier=[*earlier, one])

        noted = runcard.update(root, change)
        # Its stages ran as those of 3 photographs of 12 megapixels; it had 7.
        assert noted["estimate"]["n_runs"] == len(SEEN)
        assert noted["estimate"]["stages"] == list(STAGES)
        assert noted["estimate"]["seconds"]["actual"] == pytest.approx(total(noted), abs=0.01)
        assert noted["estimate"]["usd"]["actual"] == pytest.approx(noted["cost"], abs=1e-3)
        made = costs.estimate(SEEN, 3, 7.0, 7000, HERE)
        assert made is not None
        assert noted["estimate"]["seconds"]["mid"] == pytest.approx(made.seconds.mid, abs=0.1)

    def test_a_first_run_has_nothing_to_be_held_against(self, root: Path) -> None:
        def change(one: dict) -> None:
            costs.note(one, root, instance=HERE, earlier=[one])

        assert "estimate" not in runcard.update(root, change)

    def test_which_machine_this_is(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from spaceport_lab.costs import work

        told = tmp_path / "resourceconfig.json"
        monkeypatch.setattr(work, "RESOURCES", told)
        assert costs.this_instance({}) == ("", "")
        told.write_text("[]")
        assert costs.this_instance({"AWS_REGION": "eu-north-1"}) == ("", "eu-north-1")
        told.write_text('{"current_instance_type": "ml.g6.xlarge"}')
        assert costs.this_instance({"AWS_DEFAULT_REGION": "us-west-2"}) == ("ml.g6.xlarge", "us-west-2")
        assert costs.this_instance({"SPACEPORT_INSTANCE": "bench", "SPACEPORT_REGION": "home"}) == (
            "bench",
            "home",
        )


class TestSizes:
    @pytest.fixture
    def flight(self, tmp_path: Path) -> Path:
        folder = tmp_path / "flight"
        (folder / "images" / "masks").mkdir(parents=True)
        for n in range(50):
            Image.new("L", (400, 200 + 100 * (n >= 25))).save(folder / "images" / f"{n:03d}.JPG", "JPEG")
        (folder / "images" / "broken.jpg").write_bytes(b"no image")
        (folder / "images" / ".hidden.jpg").write_bytes(b"")
        (folder / "images" / "masks" / "001.png").write_bytes(b"")
        (folder / "images" / "notes.txt").write_text("x")
        return folder

    def test_a_folder_and_a_scene(self, flight: Path) -> None:
        for place in (flight, flight / "images"):
            found = costs.size_up(place)
            assert found is not None
            assert found[0] == 51
            assert found[1] == pytest.approx(0.1, rel=0.05)

    def test_a_zip(self, flight: Path, tmp_path: Path) -> None:
        path = tmp_path / "flight.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(flight.glob("images/0*.JPG")):
                archive.write(file, f"deep/{file.name}")
        found = costs.size_up(path)
        assert found is not None
        assert found[0] == 50
        path.write_bytes(path.read_bytes()[:500])
        assert costs.size_up(path) is None

    def test_what_cannot_be_seen_is_unknown(self, tmp_path: Path) -> None:
        (tmp_path / "film.mp4").write_bytes(b"")
        for place in (tmp_path, tmp_path / "film.mp4", tmp_path / "none", Path("s3://bucket/flight")):
            assert costs.size_up(place) is None


def test_stages_of_the_made_up_cards_are_the_real_ones() -> None:
    assert tuple(card(1)["stages"]) == STAGES
    assert np.isfinite(total(card(1)))
