// The camera's window: a preview, and one frame of it as a picture file.

const SENTENCES = {
  NotAllowedError: "The camera was refused. Allow it in the browser's settings for this page, then open it again.",
  NotFoundError: "This device has no camera.",
  OverconstrainedError: "This device has no camera.",
  NotReadableError: "The camera cannot be used now; another program may hold it.",
};

/** Wire the dialog; `taken` is called with the file of each picture. Returns a function that opens it. */
export function setUpCamera(taken) {
  const at = (id) => document.getElementById(id);
  const [dialog, video, text, take, other] = ["camera", "video", "camera-text", "take", "other-camera"].map(at);
  let stream = null;
  let wanted = "environment";

  function stop() {
    for (const track of stream?.getTracks() ?? []) track.stop();
    stream = video.srcObject = null;
    take.disabled = true;
  }

  function say(sentence) {
    text.textContent = sentence;
    video.hidden = Boolean(sentence);
    take.hidden = Boolean(sentence);
  }

  async function start() {
    stop();
    say("");
    if (!navigator.mediaDevices?.getUserMedia) {
      say("Browsers give the camera only to pages from this computer (localhost) or over https.");
      return;
    }
    try {
      const size = { width: { ideal: 1280 }, height: { ideal: 960 } };
      const opened = await navigator.mediaDevices.getUserMedia({ video: { facingMode: wanted, ...size } });
      if (!dialog.open || stream) {
        opened.getTracks().forEach((track) => track.stop());
        return;
      }
      stream = video.srcObject = opened;
      const cameras = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");
      other.hidden = cameras.length < 2;
    } catch (error) {
      stop();
      say(SENTENCES[error.name] ?? `The camera could not be opened: ${error.message}`);
    }
  }

  video.addEventListener("loadeddata", () => (take.disabled = false));
  dialog.addEventListener("close", stop);
  at("close-camera").addEventListener("click", () => dialog.close());
  other.addEventListener("click", () => {
    wanted = wanted === "user" ? "environment" : "user";
    start();
  });
  take.addEventListener("click", () => {
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    dialog.close();
    canvas.toBlob((blob) => taken(new File([blob], "camera.jpg", { type: "image/jpeg" })), "image/jpeg", 0.92);
  });
  return () => {
    dialog.showModal();
    start();
  };
}
