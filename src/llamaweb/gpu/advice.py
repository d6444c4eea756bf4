"""Why there is no WebGPU here, as far as a page can tell, and what its person can do about it in this browser."""

from __future__ import annotations

import re


def no_webgpu(agent: str, *, secure: bool, origin: str, gpu: bool) -> str:
    """The sentence for a page that gets no adapter.

    agent: navigator.userAgent. secure: isSecureContext; `origin` is where the page came from. gpu: whether there is
    navigator.gpu, so that WebGPU itself is on.
    """
    if not secure:
        return (
            f"This browser offers no WebGPU adapter to this page, which is not secure: it came from {origin or 'afar'} "
            "without TLS; open it by https:, or from localhost."
        )
    return f"This browser offers no WebGPU adapter; {_remedy(agent, gpu)}."


def _remedy(agent: str, gpu: bool) -> str:
    if found := re.search(r"Firefox/(\d+)", agent):
        return _firefox(int(found[1]), gpu)
    if found := re.search(r"(?:Edg|Chrome|Chromium)/(\d+)", agent):
        return _chrome("edge" if "Edg/" in agent else "chrome", int(found[1]), agent)
    if "AppleWebKit" in agent and ("Safari/" in agent or "Mobile/" in agent):
        return (
            "use Safari 26 or newer, or switch WebGPU on among Safari's feature flags (on a Mac in its settings; on an "
            "iPhone in Settings, Apps, Safari, Advanced), and leave Lockdown Mode"
        )
    return "use a current Chrome, Edge, Safari or Firefox with hardware acceleration switched on"


def _firefox(version: int, gpu: bool) -> str:
    if version < 113:
        return f"this is Firefox {version}; use Firefox 141 or newer"
    if not gpu:
        return "set dom.webgpu.enabled and dom.webgpu.workers.enabled to true in about:config and load the page again"
    return (
        "switch hardware acceleration on in Firefox's settings (General, Performance), or set "
        "gfx.webgpu.ignore-blocklist to true in about:config; about:support tells what is wrong with the GPU"
    )


def _chrome(scheme: str, version: int, agent: str) -> str:
    flags = f"{scheme}://flags/#enable-unsafe-webgpu"
    if version < 113:
        return f"this is version {version} of the browser; use 113 or newer"
    if "Android" in agent:
        return f"it needs Android 12 or newer; with an older one try {flags}"
    linux = f"; on Linux enable {flags} and {scheme}://flags/#enable-vulkan, too" if "Linux" in agent else ""
    return (
        f"switch graphics acceleration on in {scheme}://settings/system and start the browser again{linux}; "
        f"{scheme}://gpu tells what is wrong with the GPU"
    )
