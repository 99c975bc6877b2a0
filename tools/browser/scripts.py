"""What the browser is asked in its own language: JavaScript functions, of ours alone."""

from __future__ import annotations

TICK = "() => new Promise(done => setTimeout(() => setTimeout(done)))"
SET_VALUE = """function (value) {
    this.focus(); this.value = value;
    for (const kind of ["input", "change"]) this.dispatchEvent(new Event(kind, {bubbles: true}));
    return this.value;
}"""
SELECT = """function (wanted) {
    const plain = text => text.trim().replace(/\\s+/g, " ");
    const found = Array.from(this.options || []).find(
        option => !option.disabled && (plain(option.text) === plain(wanted) || option.value === wanted));
    if (!found) return false;
    this.focus(); found.selected = true;
    for (const kind of ["input", "change"]) this.dispatchEvent(new Event(kind, {bubbles: true}));
    return true;
}"""
SPOT = """function () {
    const boxes = Array.from(this.getClientRects()).filter(box => box.width > 0 && box.height > 0);
    const parts = [0.5, 0.2, 0.8, 0.05, 0.95];
    for (const box of boxes) for (const across of parts) for (const down of parts) {
        const [x, y] = [box.left + across * box.width, box.top + down * box.height];
        const hit = this.getRootNode().elementFromPoint(x, y);
        if (hit && this.contains(hit)) return [x, y];
    }
    return boxes.length ? [boxes[0].left + boxes[0].width / 2, boxes[0].top + boxes[0].height / 2] : null;
}"""
SCROLL = """function (x, y) {
    const root = document.scrollingElement || document.documentElement;
    let place = this.nodeType === Node.ELEMENT_NODE ? this : this.parentElement || root;
    const roomy = box => box.scrollHeight > box.clientHeight + 1 || box.scrollWidth > box.clientWidth + 1;
    const scrolls = box => /auto|scroll/.test(getComputedStyle(box).overflow) || box.tagName === "TEXTAREA";
    while (place !== root && !(roomy(place) && scrolls(place))) place = place.parentElement || root;
    const before = [place.scrollLeft, place.scrollTop];
    const size = place === root ? [innerWidth, innerHeight] : [place.clientWidth, place.clientHeight];
    place.scrollBy({left: x * size[0] * 0.8, top: y * size[1] * 0.8, behavior: "instant"});
    return before[0] !== place.scrollLeft || before[1] !== place.scrollTop;
}"""
