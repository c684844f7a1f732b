"""The kinds of cases; each module has a `make`, a `tests.campaign.cases.Family`."""
