// Pages opened from a disk may not start workers. There, the search's worker is a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(script) {
      super();
      const frame = document.createElement("iframe");
      const loaded = new Promise((resolve) => frame.addEventListener("load", resolve));
      frame.hidden = true;
      frame.answer = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      frame.srcdoc =
        "<script>postMessage = (data) => frameElement.answer(data);" +
        "importScripts = (...urls) => Promise.all(urls.map((url) => new Promise((resolve) => {" +
        "const script = document.createElement('script'); script.src = url;" +
        "script.onload = resolve; document.head.appendChild(script) })))</" + "script>" +
        `<script src="${script}"></` + "script>";
      this.send = (data) =>
        loaded.then(() => frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
      document.body.appendChild(frame);
    }
    postMessage(data) { this.send(data); }
  };
}
