"""A fixed-output fetch by a machine under KVM, from an address that the configuration allows."""

from lab import CONFIG, NIX, record_of
from small_internet import PAGE, PRIVATE, SmallInternet
from test_fixed_output import Place


def test_fixed_output_build_fetches(scratch):
    with SmallInternet(scratch) as internet:
        config = f'{CONFIG}[sandbox]\nnetwork-allow = ["{PRIVATE}/32"]\n'
        place = Place(scratch / "place", internet, config, version=NIX)
        try:
            done = place.build("fetched", f"fetch -o $out http://{PRIVATE}/file", PAGE)
            assert place.client.real(done.stdout.strip()).read_bytes() == PAGE
            assert record_of(place.server, "fetched")["accelerator"] == "kvm"
        finally:
            place.close()
