"""The service desk: actions, rewards, held-out templates, the report and what is not learnt."""

import json

import pytest

from rljax.tasks.customer_policies import (
    Choice,
    ServicePolicy,
    SlotFinder,
    calibrate,
    fit_keywords,
    make_baselines,
)
from rljax.tasks.customer_service import (
    ESCALATE,
    NOT_UNDERSTOOD,
    PASSED_ON,
    Action,
    CustomerService,
    question_of,
    read_action,
    write_action,
)
from rljax.tasks.language import Example, load_task, read_examples
from rljax.tasks.sources import DataError

FAQ = [
    ("When do you open?", "We open at nine.", "hours"),
    ("What are your opening hours?", "We open at nine.", "hours"),
    ("Are you open on Sunday?", "We open at nine.", "hours"),
    ("Where is my parcel?", "Parcels take two days.", "delivery"),
    ("How long does the parcel take?", "Parcels take two days.", "delivery"),
    ("My parcel has not come.", "Parcels take two days.", "delivery"),
    ("May I send it back?", "You have thirty days to return it.", "return"),
    ("How do I return a parcel?", "You have thirty days to return it.", "return"),
    ("I want to return this.", "You have thirty days to return it.", "return"),
]


@pytest.fixture
def faq(tmp_path):
    path = tmp_path / "faq.csv"
    rows = [f'"{q}","{a}",{i}' for q, a, i in FAQ]
    path.write_text("question,answer,intent\n" + "\n".join(rows) + "\n")
    return path


def example(question, reply, slots=(), spoken=None, intent=None):
    slots = dict(slots)
    columns = {
        "action": write_action(Action(reply, slots)),
        "intent": intent or reply.split(" ")[0],
        "template": question,
        "spoken": json.dumps(spoken if spoken is not None else slots),
    }
    return Example(f"Customer: {question}\nAgent:", columns["action"], columns)


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("TurnOn; name=lamp; area=office", Action("TurnOn", {"area": "office", "name": "lamp"})),
        ("  hours \nmore", Action("hours", {})),
        ("escalate", Action("escalate", {})),
        ("TurnOn; lamp", Action("", {})),
        ("TurnOn; a=1; a=2", Action("", {})),
        ("", Action("", {})),
        ("X; a=b=c", Action("X", {"a": "b=c"})),
    ],
)  # fmt: skip
def test_actions_are_read_whatever_the_order_of_their_slots(text, action):
    assert read_action(text) == action


def test_an_action_is_written_and_read_back():
    action = Action("TurnOn lights area", {"name": "b", "area": "a"})
    assert write_action(action) == "TurnOn lights area; area=a; name=b"
    assert read_action(write_action(action)) == action


def test_passing_on_pays_between_wrong_and_right():
    task = CustomerService(path="faq.csv", escalation=0.3)
    right = ["TurnOn; name=lamp; area=office"] * 5
    written = [
        "TurnOn; area=office; name=lamp",
        "escalate",
        "TurnOn; name=lamp",
        "",
        "escalate; a=b",
    ]
    assert task.reward([""] * 5, written, action=right) == [1.0, 0.3, 0.0, 0.0, 0.0]


def test_the_report_counts_what_was_resolved_passed_on_and_wrong():
    task = CustomerService(path="faq.csv")
    right = ["TurnOn; name=lamp", "TurnOn", "TurnOff", "TurnOff scene"]
    columns = {"action": right, "intent": ["TurnOn", "TurnOn", "TurnOff", "TurnOff"]}
    report = task.report(["TurnOn; name=lamp", "TurnOn; name=lamp", "escalate", "TurnOn"], columns)
    assert report.metrics["resolution_rate"] == 0.25
    assert report.metrics["escalation_rate"] == 0.25
    assert report.metrics["wrong_rate"] == 0.5
    assert report.metrics["intent_accuracy"] == pytest.approx(2 / 3)
    # TurnOn: precision 2/3, recall 1; TurnOff: nothing found.
    assert report.metrics["macro_f1"] == pytest.approx((0.8 + 0) / 2)
    row = next(line for line in report.text.splitlines() if line.startswith("TurnOn "))
    assert row.split() == ["TurnOn", "0.667", "1.000", "0.800", "2"]


def test_a_file_of_questions_and_answers(faq):
    spec = f"customer_service?path={faq}&held_out=0.4&passed_on=0"
    found = read_examples(spec)
    assert len(found) == len(FAQ) and {e.split for e in found} == {"train", "held_out"}
    assert {e.answer for e in found} == {"hours", "delivery", "return"}
    task = load_task(spec)
    assert task.compose("hours") == "We open at nine."
    assert task.compose("escalate") == PASSED_ON and task.compose("horse") == NOT_UNDERSTOOD


def test_replies_without_a_name_are_called_by_their_words(tmp_path):
    path = tmp_path / "faq.csv"
    rows = [("a?", "Yes, of course you may, sir."), ("b?", "Yes of course you may!"), ("c?", "No")]
    path.write_text("question,answer\n" + "\n".join(f'"{q}","{a}"' for q, a in rows))
    task = CustomerService(path=str(path), held_out=0.5)
    assert set(task.replies) == {"yes_of_course_you_may", "yes_of_course_you_may_2", "no"}


def test_some_past_conversations_were_passed_on(faq):
    few, many = (
        CustomerService(path=str(faq), held_out=0.3, passed_on=p).examples() for p in (0.0, 0.9)
    )
    assert all(e.answer == e.columns["action"] for e in few)
    passed = [e for e in many if e.answer == ESCALATE]
    assert passed and all(e.split == "train" and e.columns["action"] != ESCALATE for e in passed)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"escalation": 1.0}, "escalation is 1.0; it must be between 0 and 1"),
        ({"held_out": 0.0}, "held_out is 0.0"),
        ({"passed_on": 1.0}, "passed_on is 1.0"),
        ({"fills": 0}, "fills is 0"),
        ({"path": "faq.csv", "fills": 3}, "fills and held_out_fills are of templates"),
    ],
)
def test_settings_that_mean_nothing_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        CustomerService(**settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("question,answer\na,\nb,c\n", r"faq.csv:2: expected a text in 'answer'"),
        ("question,reply\na,b\n", r"faq.csv:2: expected a text in 'answer'"),
        ("question,answer,intent\na,b,escalate\n", "may not be 'escalate'"),
        ("question,answer,intent\na,b,x;y\n", "may not be 'x;y'"),
        ("question,answer\na,b\n", "both sides need some"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, text, message):
    path = tmp_path / "faq.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_examples(f"customer_service?path={path}")


def test_slots_are_found_by_how_they_were_said():
    train = [
        example("add 5 minutes to my timer", "Increase", {"minutes": "5"}),
        example("add 12 hours to my timer", "Increase", {"hours": "12"}),
        example("add 12 minutes now", "Increase", {"minutes": "12"}),
        example("paint the desk lamp cold white", "Color", {"name": "desk lamp", "color": "4000"},
                {"name": "desk lamp", "color": "cold white"}),
        example("lamp white", "Color", {"color": "1"}, {"color": "white"}),
    ]  # fmt: skip
    finder = SlotFinder(train)
    assert finder.find("Increase", "please add 12 hours") == {"hours": "12"}
    assert finder.find("Increase", "please add 12 minutes") == {"minutes": "12"}
    assert finder.find("Color", "Cold white for the desk lamp") == {
        "name": "desk lamp",
        "color": "4000",
    }
    assert finder.find("Color", "whiteness 12") == {} == finder.find("unknown", "12 hours")


def test_the_threshold_is_the_one_that_earns_most():
    sure, right = [0.1, 0.2, 0.6, 0.9], [False, False, True, True]
    assert calibrate(sure, right, 0.4) == 0.2
    assert calibrate(sure, right, 0.01) == 0.2
    assert calibrate(sure, [True] * 4, 0.4) == float("-inf")
    assert calibrate(sure, [False] * 4, 0.4) == 0.9  # nothing is worth an answer


def test_what_is_not_sure_enough_is_passed_on():
    policy = ServicePolicy(lambda qs: [Choice("A", len(q)) for q in qs], SlotFinder([]), 3)
    assert policy.act(["Customer: abcd\nAgent:", "Customer: abc\nAgent:"]) == ["A", ESCALATE]
    assert policy.act([]) == []
    assert question_of("Customer: one\nAgent: hours\nCustomer: two\nAgent:") == "two"


def test_keywords_are_those_of_the_replies_names():
    train = [example("x", "MediaPause"), example("y", "SetVolume"), example("z", "SetPosition")]
    choose = fit_keywords(train)
    found = choose(["set the volume to 5", "pause the media", "hello"])
    assert [choice.reply for choice in found] == ["SetVolume", "MediaPause", ESCALATE]


def test_baselines_learn_from_past_questions(faq):
    pytest.importorskip("sklearn")
    pytest.importorskip("rank_bm25")
    train = CustomerService(path=str(faq), held_out=0.3).examples()
    policies = make_baselines(train, 0.4)
    assert set(policies) == {"rule", "retrieval", "retrieval_tfidf", "supervised"}
    for name, policy in policies.items():
        answers = policy.act([e.prompt for e in train])
        assert set(answers) <= {"hours", "delivery", "return", ESCALATE}, name
        right = [a == e.columns["action"] for a, e in zip(answers, train, strict=True)]
        assert sum(right) >= (1 if name == "rule" else len(train) - 3), name


def test_whole_templates_of_the_package_are_held_out():
    pytest.importorskip("home_assistant_intents")
    pytest.importorskip("hassil")
    found = read_examples("customer_service?fills=2&held_out_fills=2")
    sides = {side: {e.columns["template"] for e in found if e.split == side}
             for side in ("train", "held_out")}  # fmt: skip
    assert not sides["train"] & sides["held_out"]
    assert 0.15 < len(sides["held_out"]) / sum(map(len, sides.values())) < 0.25
    assert len({e.prompt for e in found}) == len(found)
    assert len({e.columns["intent"] for e in found}) == 42
    task = load_task("customer_service?fills=2&held_out_fills=2")
    assert task.compose("LightSet color; color=red") == "Color set"
    assert task.compose("ListAddItem item added; item=milk") == "Added milk"
    assert task.compose("StartTimer; minutes=5") == "Timer set for 5 minutes"
    assert task.compose("GetState one; name=kettle") == "Get state one: kettle."
    for e in found:
        spoken = json.loads(e.columns["spoken"])
        assert all(said in e.prompt for said in spoken.values()), e
        assert set(spoken) == set(read_action(e.columns["action"]).slots)
        assert "{" not in task.compose(e.columns["action"])
