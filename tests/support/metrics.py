"""Read the metrics that the server publishes."""

from prometheus_client.parser import text_string_to_metric_families

from tests.support.api import Api

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse(text: str) -> Samples:
    """Return the samples of a page of metrics, by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[(name, frozenset(labels.items()))]


def scrape(api: Api) -> Samples:
    return parse(api.client.get("/metrics").content.decode())
