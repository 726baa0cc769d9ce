"""The two HTML reports: what each shows, what the release side never shows, and good form."""

import itertools
from dataclasses import fields, replace
from html import unescape
from html.parser import HTMLParser
from importlib.util import find_spec

import numpy as np
import pytest

from dpdm.data import write_samples
from dpdm.errors import RequestError
from dpdm.evaluation import ReportContent, Stage, release_part, render_report
from dpdm.privacy.accounting import Event
from dpdm.promise.attack import attack_bounds
from dpdm.promise.statement import build_statement
from dpdm.promise.wording import at_most

VOID = {"meta", "link", "img", "br", "path", "circle"}


class Checker(HTMLParser):
    """Collects elements and text, and fails on tags that do not match."""

    def __init__(self):
        super().__init__()
        self.open, self.elements, self.text, self.ids = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not (self.open and self.open[-1] in ("style", "title")):
            self.text.append(data)


def read(html):
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return checker


SKIP = "Skip to the content "


def words(html):
    """The text of a page from the first thing on it that is seen."""
    text = " ".join(" ".join(read(html).text).split())
    assert text.startswith(SKIP)
    return text.removeprefix(SKIP)


@pytest.fixture(params=[True, False], ids=["private", "release"])
def page(request, content):
    return render_report(content, private=request.param)


def test_the_page_is_well_formed(page):
    checker = read(page)
    assert page.startswith("<!doctype html>")
    tags = [tag for tag, _ in checker.elements]
    assert tags.count("h1") == tags.count("main") == tags.count("title") == 1
    levels = [int(tag[1]) for tag in tags if tag in ("h1", "h2", "h3")]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in checker.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_contents_lead_to_every_section_in_order(page):
    elements = read(page).elements
    links = [attributes["href"] for tag, attributes in elements if tag == "a"]
    sections = [attributes.get("id") for tag, attributes in elements if tag == "section"]
    assert links == ["#main", *(f"#{section}" for section in sections if section)]
    titles = {attributes.get("id") for tag, attributes in elements if tag == "h2"}
    named = {a["aria-labelledby"] for tag, a in elements if tag == "section" and "id" in a}
    assert titles == named


def test_the_language_is_named_and_tables_have_headings(page):
    elements = read(page).elements
    assert ("html", {"lang": "en"}) in elements
    headings = [attributes for tag, attributes in elements if tag == "th"]
    assert all(attributes["scope"] in ("col", "row", "rowgroup") for attributes in headings)


def test_the_page_loads_nothing(page):
    assert "http://" not in page
    assert "https://" not in page
    assert "url(" not in page
    assert "@import" not in page
    for tag, attributes in read(page).elements:
        assert tag not in ("script", "iframe", "object", "embed")
        for key in ("src", "href", "srcset", "action"):
            assert attributes.get(key, "data:").startswith(("data:", "#"))


def test_every_picture_has_an_alternative_text(page):
    pictures = [attributes for tag, attributes in read(page).elements if tag == "img"]
    assert len(pictures) >= 10
    assert all(attributes["alt"].strip() for attributes in pictures)
    assert all(int(attributes["width"]) > 0 for attributes in pictures)
    charts = [attributes for tag, attributes in read(page).elements if tag == "svg"]
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in charts)


def test_both_versions_state_the_promise_and_how_to_use_the_images(page):
    text = words(page)
    for part in (
        "Synthetic digits",
        "5,000 synthetic images of 10 classes",
        "epsilon 9.999 delta 10⁻⁴ protects each image",
        "One image changes little.",
        "The weights.",
        "The folder private/.",
        "The number of images.",
        "dp-sgd step PoissonSampled(0.36) 250",
        "add or remove one unit",
        "operating system",
        "From noise to image An image starts as pure noise. In 20 steps (sampler heun)",
        "noise 80 1.2 0",
        'np.load("release/samples.npz")',
        "uint8 (5000, 8, 8, 1)",
        "dpdm sample release -n 10000 --out more/",
    ):
        assert part in text
    assert "NOT PRIVATE" not in text


def test_the_private_version_says_so_and_shows_everything(content):
    text = words(render_report(content, private=True))
    assert text.startswith("Private report: not covered by the guarantee; do not share.")
    for part in (
        "Logistic regression on pixels 91.2%",
        "95.1% ± 0.4",
        "Trained on 5,000 synthetic images, tested on 360 real ones, 3 seeds.",
        "Served worst by the MLP: class 8, 87.0%.",
        "The test set was read once.",
        "Prior alone",
        "Samples of the network.",
        "Loss, DP-SGD",
        "Epsilon spent",
        "3 min 37 s",
        "1,234,567",
        "privacy",
        "digits",
    ):
        assert part in text


def snippets(html):
    """The code on a page, piece by piece."""
    pieces = html.split("<code>")[1:]
    return [unescape(piece.partition("</code>")[0]) for piece in pieces if "import" in piece]


@pytest.mark.parametrize("labelled", [True, False])
def test_the_ways_to_use_the_images_work_as_they_are_written(
    content, labelled, tmp_path, monkeypatch
):
    if not labelled:
        content = replace(content, labels=None, classes=(), trajectory=None, stages=())
    numpy, torch, parquet, folder = snippets(render_report(content, private=False))
    monkeypatch.chdir(tmp_path)
    for path in ("release/samples.npz", "more.parquet", "more"):
        write_samples(path, content.images, content.labels, content.classes)
    seen = {}
    exec(numpy, seen)
    np.testing.assert_array_equal(seen["images"], content.images)
    exec(torch, seen)
    image, *label = seen["data"][3]
    np.testing.assert_allclose(image.permute(1, 2, 0) * 255, content.images[3], atol=1e-3)
    exec(folder, seen)
    assert np.asarray(seen["image"]).shape == (8, 8)
    if labelled:
        np.testing.assert_array_equal(seen["labels"], content.labels)
        assert label == [content.labels[3]]
        assert seen["label"] in content.classes
    compile(parquet, "parquet", "exec")
    if find_spec("datasets"):
        exec(parquet, seen)
        assert np.asarray(seen["image"]).shape == (8, 8)


def test_a_prior_alone_is_not_said_to_draw_step_by_step(content):
    prior = replace(content, trajectory=replace(content.trajectory, shortcut=True))
    text = words(render_report(prior, private=False))
    assert "The samples above were drawn from noised statistics directly." in text
    assert "starts as pure noise" not in text


def test_samples_that_start_from_the_prior_are_not_said_to_start_from_noise(content):
    begun = replace(content, trajectory=replace(content.trajectory, from_prior=True))
    text = words(render_report(begun, private=False))
    assert "An image starts as a draw from noised statistics with noise on it." in text
    assert "starts as pure noise" not in text


def test_an_audits_bound_stands_beside_the_claim(content, audit):
    text = words(render_report(replace(content, audit=audit), private=True))
    for part in (
        "The attack shows that epsilon is at least 3.31 (confidence 95%); claimed is at most 10",
        "gradient-space 493 of 1000 198 of 200 3.31",
        "noise is fresh passed two draws differ",
        "every value that left a mechanism",
    ):
        assert part in text
    assert "contradicts" not in text


@pytest.mark.parametrize(
    "fault",
    [
        {"epsilon_lower_bound": 10.5},
        {"checks": [{"name": "noise is fresh", "passed": False, "seen": "the same"}]},
    ],
)
def test_an_audit_that_contradicts_the_claim_says_so(content, audit, fault):
    text = words(render_report(replace(content, audit={**audit, **fault}), private=True))
    assert "This contradicts the claim." in text


def test_an_audits_own_verdict_stands_in_the_report(content, audit):
    """Any family of canaries may contradict the claim; none does where the command found none."""
    fault = "random canaries show an epsilon above 11, but at most 10 is claimed"
    page = render_report(replace(content, audit={**audit, "faults": [fault]}), private=True)
    assert f"This contradicts the claim. {fault[0].upper()}{fault[1:]}." in words(page)
    sound = {**audit, "epsilon_lower_bound": 10.5, "faults": []}
    assert "contradicts" not in words(render_report(replace(content, audit=sound), private=True))


SENTINEL = "SENTINEL7341"


def planted(content):
    """The same release with other private facts, every text of which is the sentinel."""
    return replace(
        content,
        statement={
            **content.statement,
            "private_loss": SENTINEL,
            "mechanisms": [
                {**mechanism, "private_clip_fraction": SENTINEL}
                for mechanism in content.statement["mechanisms"]
            ],
        },
        data=SENTINEL,
        stages=(Stage(SENTINEL, SENTINEL, 255 - content.images, None, {SENTINEL: 0.7341}),),
        history=({"step": 7341, "loss": 0.7341, "epsilon": 7.341, "phase": SENTINEL},),
        evaluation={
            "accuracy": {SENTINEL: 0.7341},
            "per_class": {SENTINEL: {SENTINEL: 0.7341}},
            "notes": [SENTINEL],
        },
        audit={
            "epsilon_lower_bound": 7341.0,
            "epsilon_claimed": 8.0,
            "delta": 1e-5,
            "confidence": 0.95,
            "canaries": [],
            "checks": [{"name": SENTINEL, "passed": False, "seen": SENTINEL}],
            "access": [SENTINEL],
        },
        cost={SENTINEL: SENTINEL, "seconds": 7341},
        config={f"data.{SENTINEL}": SENTINEL},
    )


def test_the_release_version_holds_nothing_private(content):
    assert SENTINEL in render_report(planted(content), private=True)
    page = render_report(planted(content), private=False)
    assert SENTINEL not in page
    assert "73.4" not in page


def test_the_release_version_does_not_depend_on_private_facts_at_all(content):
    page = render_report(content, private=False)
    assert page == render_report(planted(content), private=False)


def test_a_field_is_private_unless_it_is_named_as_released(content):
    released = release_part(planted(content))
    default = ReportContent(title="", preset="", statement={}, images=content.images)
    public = {"title", "preset", "statement", "images", "labels", "classes", "sample_count"}
    public |= {"trajectory"}
    for field in fields(ReportContent):
        if field.name not in public:
            assert getattr(released, field.name) == getattr(default, field.name)


def test_a_run_without_a_guarantee_says_so_first_and_loudly(content):
    statement = {"private": False, "epsilon": 1.0, "in_words": "The noise seed was chosen.\n"}
    for private in (True, False):
        text = words(render_report(replace(content, statement=statement), private=private))
        assert text.startswith("NOT PRIVATE")
        assert "No guarantee was made. The noise seed was chosen." in text
        assert "delta" not in text.split("What this is")[0]


def test_a_statement_that_does_not_say_private_counts_as_not_private(content):
    text = words(render_report(replace(content, statement={}), private=False))
    assert text.startswith("NOT PRIVATE")


PRIOR = ("prior", Event(9.0), 1)


def real_statement(**changes):
    """The statement that a run writes to ``release/privacy.json``."""
    arguments = {
        "events": [PRIOR, ("dp-sgd", Event(20.0, 0.07), 100)],
        "delta": 1e-5,
        "accountant": "rdp",
        "unit": "image",
        "noise_source": "the operating system",
        "enabled": True,
        "seeded": False,
        "planned_epsilon": 1.0,
        "image_shape": (8, 8, 1),
        "classes": 10,
        "public_size": 1437,
        "public_size_declared": True,
    }
    arguments |= changes
    return build_statement(arguments.pop("events"), **arguments)


def test_the_statement_of_a_run_is_shown_whole_on_both_sides(content):
    statement = real_statement()
    for private in (True, False):
        text = words(render_report(replace(content, statement=statement), private=private))
        assert "Whatever may be concluded from this release" in text
        assert "Gaussian noise of 20 times the sensitivity, on a Poisson sample" in text
        assert "False alarms Found, at most 0.1%" in text
        for key in ("covered", "not_covered", "treated_as_public", "limits"):
            assert all(sentence in text for sentence in statement[key])


@pytest.mark.parametrize(("noise", "weak"), [(20.0, False), (0.5, True)])
def test_a_weak_bound_on_attackers_is_called_weak(content, noise, weak):
    statement = real_statement(events=[("dp-sgd", Event(noise, 0.07), 100)])
    text = words(render_report(replace(content, statement=statement), private=False))
    assert ("the worst case allows a nearly sure guess" in text) == weak


def test_the_limits_on_attackers_come_with_their_curve_and_where_it_is_from(content):
    statement = real_statement()
    page = render_report(replace(content, statement=statement), private=False)
    assert "their trade-off curve: a limit for the worst case" in words(page)
    assert "from epsilon and delta alone" not in words(page)
    charts = [attributes for tag, attributes in read(page).elements if tag == "svg"]
    assert [chart["aria-label"] for chart in charts] == [
        "The most members that can be found, against the false alarms allowed"
    ]


def test_the_attackers_success_is_among_the_first_figures_and_in_words(content):
    bounds = attack_bounds([(1.0, 1e-5)])
    statement = real_statement() | {"attack_bounds": bounds}
    text = words(render_report(replace(content, statement=statement), private=False))
    brief = text.partition("What this is The")[0].split("protects each image", 1)[1]
    # e^1 x 0.01 + 1e-5 = 2.7193%, and half of 1 + (e - 1 + 2e-5) / (e + 1) = 73.11%, rounded up.
    assert brief.startswith(" best attack finds, at most 2.72% at 1% false alarms")
    assert "is right at most 73.2% of the time; a coin is right half of the time." in brief
    unbound = words(render_report(content, private=False))
    assert "best attack" not in unbound
    assert "a coin" not in unbound


def test_a_statement_without_a_curve_shows_its_limits_and_no_chart(content):
    bounds = attack_bounds([(1.0, 1e-5)])
    del bounds["curve"]
    statement = real_statement() | {"attack_bounds": bounds}
    page = render_report(replace(content, statement=statement), private=False)
    assert "from epsilon and delta alone: a limit" in words(page)
    assert "<svg" not in page


def test_unit_and_ledger_are_shown_on_both_sides(content):
    statement = real_statement(
        unit="group",
        max_images_per_unit=4,
        this_run=[PRIOR],
        runs=2,
        budget=(8.0, 1e-5),
    )
    for private in (True, False):
        text = words(render_report(replace(content, statement=statement), private=private))
        for part in (
            "protects each person",
            "A person stands here for all images of that person",
            "Protected unit all images of one person (group)",
            "Images of a person in one step 4",
            f"Epsilon of this run alone {at_most(statement['this_run']['epsilon'])}",
            "2 runs on these data; epsilon is for all together; at most epsilon 8",
        ):
            assert part in text


@pytest.mark.parametrize("change", [{"enabled": False}, {"seeded": True}])
def test_a_run_without_a_promise_gives_its_reason(content, change):
    statement = real_statement(**change)
    text = words(render_report(replace(content, statement=statement), private=True))
    assert text.startswith("NOT PRIVATE")
    assert statement["not_private_because"][1:] in text
    assert "version to share" not in text


def test_text_from_outside_is_escaped(content):
    hostile = "<script>alert(1)</script>"
    statement = {**content.statement, "in_words": [hostile], "unit": hostile}
    page = render_report(
        replace(
            content,
            title=hostile,
            preset=hostile,
            classes=(hostile, *content.classes[1:]),
            statement=statement,
            history=({"step": 1, "loss": 1.0, "phase": hostile},),
            config={hostile: hostile},
        ),
        private=True,
    )
    read(page)
    assert "<script" not in page


def test_samples_without_labels_are_shown_in_rows(content):
    unlabelled = replace(content, labels=None, classes=(), stages=())
    page = render_report(unlabelled, private=False)
    assert "labels" not in words(page)
    assert "5,000 synthetic images, 8" in words(page)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(8, 8), (64, 48)])
def test_any_image_shape_can_be_shown(content, size, channels):
    images = np.zeros((20, *size, channels), np.uint8)
    render_report(replace(content, images=images, labels=np.arange(20) % 10), private=True)


def test_a_class_without_samples_is_said_to_have_none(content):
    page = render_report(replace(content, labels=np.zeros(200, np.int64)), private=False)
    assert words(page).count("No sample of this class.") == 9


def test_of_very_many_classes_the_first_are_shown(content):
    many = replace(
        content,
        images=np.zeros((200, 8, 8, 1), np.uint8),
        labels=np.arange(200),
        classes=tuple(f"class-{number:03d}" for number in range(200)),
        stages=(),
    )
    text = words(render_report(many, private=False))
    assert "The first 40 of 200 classes." in text
    assert "class-039" in text
    assert "class-040" not in text


def test_a_report_without_the_optional_parts_is_shorter_not_broken(content):
    bare = ReportContent(
        title="Samples", preset="digits", statement=content.statement, images=content.images
    )
    text = words(render_report(bare, private=True))
    for part in ("What it is worth", "Stage by stage", "Training", "Cost", "Every setting"):
        assert part not in text


def test_losses_that_are_missing_leave_no_empty_chart(content):
    history = tuple({"step": step, "loss": None, "epsilon": 1.0 + step} for step in range(3))
    text = words(render_report(replace(content, history=history), private=True))
    assert "Epsilon spent" in text
    assert "Loss, " not in text


def test_a_report_of_no_samples_is_refused(content):
    with pytest.raises(RequestError, match="no samples to show"):
        render_report(replace(content, images=content.images[:0]), private=False)
