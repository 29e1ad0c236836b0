"""Choices in the address, as the router and pages use them."""

from streamlit.testing.v1 import AppTest

SCRIPT = """
import streamlit as st
from app.shared import address

page = st.session_state.get("open", "one")
address.arrive(page)
if page != "bare":
    st.session_state.setdefault("layers", [])
    layers = st.multiselect("Layers", [0, 1, 2], key="layers")
    if st.session_state.get("pair") not in ("a + b", "a + c"):
        st.session_state["pair"] = "a + b"
    pair = st.selectbox("Pair", ["a + b", "a + c"], key="pair")
    address.say(layers=layers, pair=[pair])
"""


def opened(**query):
    test = AppTest.from_string(SCRIPT)
    for key, value in query.items():
        test.query_params[key] = value
    return test.run()


def turned_to(test, page, **query):
    """As the browser does: the next page's address says only what the link to it says."""
    test.session_state["open"] = page
    test.query_params.clear()
    for key, value in query.items():
        test.query_params[key] = value
    return test.run()


def said(test):
    """What the address says; AppTest has a text for one value, a list for several."""
    found = {key: [values] if isinstance(values, str) else values for key, values in test.query_params.items()}
    return {key: values for key, values in found.items() if values}


def test_takes_what_the_address_chooses_and_says_what_the_page_chose():
    test = opened(layers=["0", "2"])
    assert test.multiselect(key="layers").value == [0, 2]
    assert said(test) == {"layers": ["0", "2"], "pair": ["a + b"]}


def test_the_next_page_shows_and_says_the_same_though_nobody_touched_it():
    test = opened(layers=["1"], pair="a + c")
    for page in ("two", "bare", "one"):
        turned_to(test, page)
    assert test.multiselect(key="layers").value == [1]
    assert test.selectbox(key="pair").value == "a + c"
    assert said(test) == {"layers": ["1"], "pair": ["a + c"]}


def test_a_link_wins_over_what_was_chosen_before():
    test = opened(pair="a + b", layers=["1"])
    turned_to(test, "two", pair="a + c")
    assert test.selectbox(key="pair").value == "a + c"
    assert test.multiselect(key="layers").value == [1]


def test_what_a_person_changes_is_said_and_a_default_is_not():
    test = opened(layers=["1"])
    test.selectbox(key="pair").set_value("a + c").run()
    test.multiselect(key="layers").set_value([]).run()
    assert said(test) == {"pair": ["a + c"]}


def test_going_back_restores_what_the_address_said():
    test = opened(layers=["1"], pair="a + c")
    test.multiselect(key="layers").set_value([2]).run()
    test.query_params["layers"] = "1"
    test.run()
    assert test.multiselect(key="layers").value == [1]
    del test.query_params["layers"]
    test.run()
    assert test.multiselect(key="layers").value == []


def test_an_address_that_makes_no_sense_chooses_nothing():
    test = opened(layers=["one"], pair="nobody + else", steps=["1"])
    assert not test.exception
    assert test.multiselect(key="layers").value == []
    assert said(test)["pair"] == ["a + b"]
