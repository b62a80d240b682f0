"""`make verify-envs`: a check that fails is told and does not stop the others, and the page has a row for every sim."""

import re

import pytest
import verify_envs

import envs


def test_a_failure_is_told_in_its_cell_and_the_other_checks_go_on(monkeypatch):
    def fails(name):
        if name == "pricing":
            raise AssertionError("sells too much")
        return "fine"

    monkeypatch.setitem(verify_envs.COLUMNS, "properties", fails)
    row, failures, _ = verify_envs.verify("pricing", ("properties", "golden"))
    assert row == {"properties": verify_envs.FAILED, "golden": verify_envs.golden("pricing")}
    assert failures == ["pricing, properties: AssertionError: sells too much"]
    assert verify_envs.verify("snake", ("properties",))[:2] == ({"properties": "fine"}, [])


def test_means_are_compared_in_standard_errors():
    found = verify_envs.np.array([0.0, 2.0] * 50)  # a mean of 1 with an error of 0.1005
    assert verify_envs.standard_errors(found, 1.2, 0.0) == "2.0"
    assert verify_envs.standard_errors(found, 1.2, 0.1) == "1.4"
    assert verify_envs.standard_errors(found * 0 + 3, 3.0, 0.0) == "exact"
    for mean, values in ((1.5, found), (3.1, found * 0 + 3)):
        with pytest.raises(AssertionError, match="instead of"):
            verify_envs.standard_errors(values, mean, 0.0)


def test_checks_that_do_not_apply_are_left_empty():
    assert verify_envs.exact_port("snake") == verify_envs.optimum("snake") == verify_envs.levels("snake") == ""
    assert verify_envs.golden("pendulum") == ""
    assert set(verify_envs.PROPERTIES) <= set(envs.sims())
    assert set(verify_envs.PORTS) | set(verify_envs.OPTIMA) <= set(envs.sims())


@pytest.mark.parametrize("name", ["cartpole", "pendulum"])
def test_mirrored_worlds_are_mirrored(name):
    verify_envs.mirrored(name)


def test_the_page_has_a_row_for_every_sim_and_no_failure():
    page = verify_envs.PAGE.read_text()
    assert re.findall(r"^\| \[(\w+)\]", page, re.M) == envs.sims()
    assert verify_envs.FAILED not in page
    cells = dict.fromkeys(verify_envs.COLUMNS, "0")
    assert verify_envs.page({"snake": cells}).partition("| sim")[0] == page.partition("| sim")[0]
