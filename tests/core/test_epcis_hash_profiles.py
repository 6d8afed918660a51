"""The event hash of 2026 and of the draft of CBV 2.1: hashes published with the reference implementation's examples.

Source: github.com/RalphTro/epcis-event-hash-generator, tests/examples/expected (MIT licence).
"""

from pathlib import Path
from typing import Any

import pytest

from core.canonical import parse_json
from core.epcis.hashes import PROFILES, event_hash, prehash
from core.epcis.items import document_events
from core.epcis.xml import read_xml
from tests.core.test_epcis_hashes import DATA, EVENT, needs_vectors

pytestmark = pytest.mark.unit

OF_2026, DRAFT = "gs1-cbv2.0-2026", "gs1-cbv2.1-draft"
_REFERENCE_2 = {
    OF_2026: "271565c346ae2fb28c4583c4dca4ab4772d465eb4e0b6e548d77d8b49377d95c",
    DRAFT: "f6bf8e2fb50f26f5baba52f722211eefdb0f427a3903c61ab015db6d1f93c3da",
}
_CERTIFICATION = {
    OF_2026: "db3f717972b6be7ce2eb2f31a12b00beda1f9a7de63c23948f4b7314ffe0581b",
    DRAFT: "ce144ccdca1bafdb5f277f2ecd2c33dc287cf7307b154e0c2d41a0dde82322ac",
}
_ERROR = {OF_2026: "e16ce101f3d7383612e00b74419b2d88f12baa6a124b0e390252d396687d5cf7"}
_KEYS = "40744f32beff53a4bf5bb5956d465cb52de5bbcc9f131409d8efb903b04d9351"
# File, then by profile the hashes of its events.
PUBLISHED: dict[str, dict[str, str]] = {
    "hash-vectors/ReferenceEventHashAlgorithm2.jsonld": _REFERENCE_2,
    "hash-vectors/ReferenceEventHashAlgorithm2.xml": _REFERENCE_2,
    "hash-vectors/CertificationInfoAndSensorReportWithCRS.jsonld": _CERTIFICATION,
    "hash-vectors/CertificationInfoAndSensorReportWithCRS.xml": _CERTIFICATION,
    "hash-vectors/epcisDocWithXMLstartTagAndErrorDeclaration.jsonld": _ERROR,
    "hash-vectors/epcisDocWithXMLstartTagAndErrorDeclaration.xml": _ERROR,
    "hash-vectors/epcisDocWithAllGS1Keys.jsonld": {OF_2026: _KEYS, DRAFT: _KEYS},
    "hash-vectors/ralfsChaosExample.jsonld": {
        OF_2026: "962b81a19a5d2652b43016c17c1a85acfa667155c53523086d22a0b566e7ee04"
    },
    "hash-vectors/epclist_normalisation.jsonld": {
        OF_2026: "028e1a1a0aef2be946fa8026eec361159033cab9d4da3f94bee1d58070b20198"
    },
    "hash-vectors/epcisDocWithTransformationEventWithMultipleExtensions.xml": {
        OF_2026: "dbb241915fe2b61d9a56a3ebff0ac557214a61bc135ddc51c9ebc428b40f9363"
    },
    "hash-vectors/epcisDocHavingEventWithComment.jsonld": {
        DRAFT: "df6523665bc5e5803d6c7b84f5a04e103694d8220f2abc4f2c74310e89f31bc6"
    },
    "hash-vectors/epcisDocWithSensorDataObjectEvent.jsonld": {
        OF_2026: "bea63f2741e3f4ae7cab8abba1be5bf172109f749bedaa7e8620fb9bd26847b5",
        DRAFT: "d3d98bcd059c3e88b80c5e713dee3b5eee2bea4723fe4b8356d0a2bee757a34e",
    },
    "hash-vectors/epcisDocWithDefaultSchemaInContext.jsonld": {
        OF_2026: "ffa491b16867e34a7791a8d5389d826afc24e63a121026b6a4004ace38631b4b "
        "a207f523e4888a5cf75b5ee1110ebe019baba7e99aafde1d809d50b80727114e"
    },
    "valid/AssociationEvent_all_possible_fields.json": {
        OF_2026: "3dada0cdabe84618e9f0b842031159cb49534f487d5714cac9cfd647bf5f6c54",
        DRAFT: "5500e83913a6acddfc2b26b0ec4bcacaf89316427b2655922cbc98f484ce130e",
    },
    "valid/ObjectEvent_all_possible_fields.json": {
        OF_2026: "9811bfb2672e9c3a0f6151be339d22b60db375c8b23d2740f6137cc6539f0639",
        DRAFT: "465f7b2495684562349eed41324796ea0435ff429b60c18eda5e5698df377ede",
    },
    "hash-vectors/SensorDataExamples.xml": {
        OF_2026: "75142d4f4b4fd06fb7ac7e3adb31e56caea4f84f2afb7ef6b564b075cd6daf68 "
        "109406fe4d7bd0a9806188dc1b8928e98c4bbc4718d2ff97c6dc6122ce1d9596 "
        "0061c0b9ca428f306014ba29e30a9b10564ff323ef4c64de73cb9ae5d28ee3aa "
        "52f7049f181d757040ee670469ba08a40a8e490209b911919df3d72ae09cf938 "
        "7e3a42357f679a5a4ee6b5124e0d05338d41ece98899b4ccf254efb941c8d405 "
        "59a91885337758b760429b6118f8bc697c19af6b3ae14d55b230f6c5a2ed8e97 "
        "44a2facaf839aee4fcfce5e3c6f2a1ff922c6a00fdff143f26e7fe774fdf4890 "
        "9955881f334598a45a5987a34b0595e1867cc7761685d892327463c18a4c1795 "
        "45a793d01450d9d7626bf98bdca844c848e981497a871bb7394db7d255a44273 "
        "8f6b69aca701aa9645c5d2a766012b2b0ecafb22d548cfc88f4f68af42d291e7 "
        "e1213ac002995a3efb5febb95f624459c6a26cbed9a6ac3a54a72a299a1eaf62 "
        "a71d10e51b15abeec8ba6962077c6fa781ef014f0dad98a0ad12d4f0c27e2d42",
        DRAFT: "244752f49ab24aca478f26c9987de4c4dd16b64f31920543612540d446f64774 "
        "ec2d5799f7d97f25be243226064fcd42b8367840e3b1c9ed8e11749fe44504b8 "
        "6e371f54dfdd73ec8b088b7e6ee14c2e8a0556a1f4d0e3106dfd4ab3186d8c46 "
        "9a9a7ffcad058722cea980c5b3c3871d5462958c91f86caec0626be685e3c248 "
        "3cde95e0da01f5c9ecbb532414d2b87fbbe1cf59e23362f9967a6848957aacb3 "
        "680d8e28eaa443cc0f5ffb4e9638cb9fcf0ca74de3805048a7531cb3927797a2 "
        "35d6f357958fd1382be086fc2623e3f164e3357532c7fb91367efb96c54e789d "
        "f8f82a496ab151b7169bc4786ea28699b13a83a51d05f168c828825f40bfb1ec "
        "c31561f9698debbb3ce47739abf22042e1294a06069f6a5e14707c0719815a32 "
        "81a2fad99386d7c1211efc733af17c38e177f3082eb7df33ca3f125764810bdf "
        "20d53c58a3249f032476c5f1fc685290ccd3e8a58d15c2ad2536c02271cb14f8 "
        "c6b9b783529666c9bef39ed59202551aba96933f50d6828988584f534d0eabe4",
    },
}
CASES = [(name, profile) for name, hashes in PUBLISHED.items() for profile in hashes]


def _events(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    return document_events(read_xml(data) if path.suffix == ".xml" else parse_json(data, bytes_max=1_000_000))


@needs_vectors
@pytest.mark.parametrize(("name", "profile"), CASES)
def test_hash_is_the_published_one(name: str, profile: str) -> None:
    found = [event_hash(event, profile) for event in _events(DATA / "epcis" / name)]

    version = "CBV2.1" if profile == DRAFT else "CBV2.0"
    assert found == [f"ni:///sha-256;{digest}?ver={version}" for digest in PUBLISHED[name][profile].split()]


def test_extensions_stand_behind_the_standard_fields_in_2026_and_in_place_in_the_others() -> None:
    event = {**EVENT, "readPoint": {"id": EVENT["readPoint"]["id"], "x:a": "1"}, "bizLocation": EVENT["readPoint"]}
    context = {"x": "https://x.example/"}
    place = "id=https://id.gs1.org/414/4012345000115"

    ends = {profile: prehash(event, profile, context).partition("in_transit")[2] for profile in PROFILES}

    in_place = f"readPoint{place}{{https://x.example/}}a=1bizLocation{place}"
    moved = f"readPoint{place}bizLocation{place}readPoint{{https://x.example/}}a=1"
    assert ends == {"gs1-cbv2.0-2023": in_place, DRAFT: in_place, OF_2026: moved}


@pytest.mark.parametrize("profile", PROFILES)
def test_a_number_in_an_extension_hashes_alike_from_json_and_from_xml(profile: str) -> None:
    context = {"x": "https://x.example/"}
    as_json = parse_json(b'{"x:a": 12.50}', bytes_max=100)

    assert prehash({**EVENT, **as_json}, profile, context) == prehash({**EVENT, "x:a": "12.50"}, profile, context)
    assert prehash({**EVENT, "x:a": "v12.50"}, profile, context).endswith("a=v12.50")
