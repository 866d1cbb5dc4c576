from exo.http.headers import CLIENT_HEADER, HOP_HEADER, PROOF_HEADER, hop, proof


def test_a_node_that_passes_a_request_on_says_and_proves_who_it_is() -> None:
    assert hop("a", None) == {HOP_HEADER: "a"}
    assert hop("a", b"secret") == {HOP_HEADER: "a", PROOF_HEADER: proof(b"secret", "a")}
    assert hop("a", None, "someone") == {HOP_HEADER: "a", CLIENT_HEADER: "someone"}


def test_a_request_that_no_node_passes_on_proves_nothing() -> None:
    assert hop("", b"secret") == {}
    assert hop("", b"secret", "someone") == {CLIENT_HEADER: "someone"}
