"""The reason why there is no WebGPU is the true one, and what to do is said in the browser's own terms."""

from __future__ import annotations

import pytest

from llamaweb.gpu.advice import no_webgpu

WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"
AGENTS = {
    "Chrome, Linux": f"Mozilla/5.0 (X11; Linux x86_64) {WEBKIT} Chrome/156.0.0.0 Safari/537.36",
    "Chrome, Windows": f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {WEBKIT} Chrome/156.0.0.0 Safari/537.36",
    "Chrome, old": f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {WEBKIT} Chrome/109.0.0.0 Safari/537.36",
    "Chrome, Android": f"Mozilla/5.0 (Linux; Android 10; K) {WEBKIT} Chrome/156.0.0.0 Mobile Safari/537.36",
    "Edge": f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {WEBKIT} Chrome/156.0.0.0 Safari/537.36 Edg/156.0.0.0",
    "Firefox": "Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0",
    "Firefox, old": "Mozilla/5.0 (X11; Linux x86_64; rv:102.0) Gecko/20100101 Firefox/102.0",
    "Safari": "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/18.5 Safari/605.1.15",
    "another": "Ladybird/1.0",
}


@pytest.mark.parametrize(
    ("browser", "gpu", "told"),
    [
        ("Chrome, Linux", False, "chrome://flags/#enable-unsafe-webgpu and chrome://flags/#enable-vulkan"),
        ("Chrome, Linux", True, "chrome://settings/system"),
        (
            "Chrome, Windows",
            True,
            "graphics acceleration on in chrome://settings/system and start the browser again; chrome",
        ),
        ("Chrome, old", False, "this is version 109 of the browser; use 113 or newer"),
        ("Chrome, Android", False, "Android 12 or newer"),
        ("Edge", True, "edge://settings/system"),
        ("Firefox", False, "set dom.webgpu.enabled and dom.webgpu.workers.enabled to true in about:config"),
        ("Firefox", True, "gfx.webgpu.ignore-blocklist"),
        ("Firefox, old", False, "this is Firefox 102; use Firefox 141 or newer"),
        ("Safari", False, "Safari 26 or newer, or switch WebGPU on among Safari's feature flags"),
        ("another", False, "use a current Chrome, Edge, Safari or Firefox"),
    ],
)
def test_how_webgpu_is_switched_on_is_said_for_the_browser(browser: str, gpu: bool, told: str) -> None:
    sentence = no_webgpu(AGENTS[browser], secure=True, origin="https://example.org", gpu=gpu)
    assert sentence.startswith("This browser offers no WebGPU adapter; ") and told in sentence
    assert sentence.endswith(".") and "\n" not in sentence


@pytest.mark.parametrize("agent", AGENTS.values())
def test_a_page_without_tls_is_told_that_and_nothing_of_the_browser(agent: str) -> None:
    sentence = no_webgpu(agent, secure=False, origin="http://models.example", gpu=False)
    assert "not secure: it came from http://models.example without TLS; open it by https:" in sentence
    assert "://settings" not in sentence and "about:" not in sentence
