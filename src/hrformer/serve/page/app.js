// The page: a picture in, a model asked, its answer shown.

import { fetchModels, fetchPrediction, keepToken } from "./api.js";
import { setUpCamera } from "./camera.js";
import { firstFile, Picture } from "./picture.js";
import { People } from "./people.js";
import { classRows, maskRows, peopleRows, summary } from "./results.js";
import { download, Stage } from "./stage.js";

const KEY_PAUSE = 350; // Milliseconds between the last change and the question, so that held keys ask once
const TURNED =
  "The browser shows this picture turned otherwise than the server reads it, so nothing is drawn. Save it as JPEG, and choose that.";
const TASKS = { pose: "Pose", segmentation: "Segmentation", classification: "Classification" };

const at = (id) => document.getElementById(id);
const state = { models: [], limits: null, model: null, picture: null, answer: null, running: null, timer: 0, opening: 0, topK: 5 };
const unfolded = new Set();
const stage = new Stage(settings);
const people = new People(() => predictSoon(KEY_PAUSE));

/** What the card "Display" says. */
function settings() {
  return {
    jointThreshold: Number(at("joint-threshold").value),
    personThreshold: Number(at("person-threshold").value),
    boxes: at("show-boxes").checked,
    names: at("show-names").checked,
    opacity: Number(at("opacity").value),
    legend: at("show-legend").checked,
    bars: at("show-bars").checked,
    marked: people.mode === "boxes",
  };
}

function say(sentence) {
  at("status").textContent = sentence;
}

/** Show what went wrong; `again` is what the button "Try again" does, null for none. */
function complain(sentence, again = null) {
  at("problem-text").textContent = sentence;
  at("problem").hidden = false;
  at("retry").hidden = !again;
  at("retry").onclick = again;
}

function calm() {
  at("problem").hidden = true;
}

async function loadModels() {
  calm();
  say("Loading the models…");
  try {
    const { models, limits } = await fetchModels();
    Object.assign(state, { models, limits });
  } catch (error) {
    say("");
    if (error.status === 401) askForToken(error);
    else complain(error.message, loadModels);
    return;
  }
  at("token-form").hidden = true;
  fillModels();
  say(state.picture ? "" : "Ready.");
  predictSoon();
}

function askForToken({ message, tried }) {
  at("token-form").hidden = false;
  if (tried) complain(message);
  else say(message);
  at("token").focus();
}

function connect() {
  const token = (at("token").value = at("token").value.trim());
  if (!at("token").reportValidity()) return;
  if (keepToken(token)) loadModels();
  else {
    complain("A token has plain letters, digits and signs only.");
    at("token").focus();
  }
}

function fillModels() {
  // The task of the server's first model comes first.
  const groups = [...new Set(state.models.map(({ task }) => task))].map((task) => {
    const group = document.createElement("optgroup");
    group.label = TASKS[task];
    group.append(...state.models.filter((model) => model.task === task).map(({ name }) => new Option(name, name)));
    return group;
  });
  const before = state.model?.name;
  at("model").replaceChildren(...groups);
  at("model").disabled = !state.models.length;
  const kept = state.models.some(({ name }) => name === before) ? before : at("model").options[0]?.value;
  if (!kept) complain("The server has no model.");
  else chooseModel(kept);
}

function chooseModel(name) {
  const model = state.models.find((one) => one.name === name);
  state.model = model;
  at("model").value = name;
  const [height, width] = model.input_size;
  at("model-facts").textContent = `${TASKS[model.task]} · looks at ${width} × ${height} pixels`;
  const has = (option) => option in model.options;
  const fixed = (option) => model.fixed.includes(option);
  at("flip-row").hidden = !has("flip");
  at("flip").checked = Boolean(model.options.flip);
  at("flip").disabled = fixed("flip");
  at("flip-note").textContent = fixed("flip") ? "part of this model's file" : "slower, a little better";
  at("top-k-row").hidden = !has("top_k") || fixed("top_k");
  at("top-k").value = state.topK = model.options.top_k ?? 5;
  at("top-k").max = model.classes?.length || 1000;
  at("display").hidden = false;
  for (const group of at("display").querySelectorAll("[data-task]")) group.hidden = group.dataset.task !== model.task;
  people.setModel(model, state.limits);
  clearAnswer();
}

function clearAnswer() {
  state.running?.abort();
  state.answer = null;
  stage.setResult(null, null);
  showAnswer();
}

/** Draw and write the answer as the settings of the moment want it. */
function showAnswer() {
  const { answer } = state;
  stage.draw();
  people.setFound(answer?.result.people ? answer.result : null);
  at("save-png").disabled = at("save-json").disabled = !answer;
  at("canvas").setAttribute("aria-label", label());
  if (answer) at("results-body").replaceChildren(...rows(answer.result));
  else at("results-body").innerHTML = `<p class="hint">${state.picture ? "None yet." : "Nothing yet: give me a picture."}</p>`;
}

function rows(result) {
  if (result.predictions) return classRows(result);
  if (result.people) return peopleRows(result, settings(), unfolded);
  return maskRows(result, stage.colors, stage.hidden, (id, shown) => stage.toggle(id, shown));
}

function label() {
  if (!state.picture) return "No picture yet";
  const { file, width, height } = state.picture;
  const found = state.answer ? `: ${summary(state.answer.result)}` : "";
  return `Picture ${file.name}, ${width} by ${height} pixels${found}`;
}

/** The form fields beside the picture; null while something is missing. */
function fields() {
  const { model } = state;
  const form = {};
  if (!at("flip-row").hidden && !at("flip").disabled) form.flip = at("flip").checked;
  if (!at("top-k-row").hidden) form.top_k = state.topK;
  if (model.task === "segmentation") form.mask = true;
  if (model.task !== "pose") return form;
  const who = people.fields();
  return who && { ...form, ...who };
}

function predictSoon(pause = 0) {
  clearTimeout(state.timer);
  state.running?.abort();
  state.timer = setTimeout(predict, pause);
}

async function predict() {
  state.running?.abort();
  const { model, picture } = state;
  if (!model || !picture) return;
  const form = fields();
  calm();
  if (!form) {
    clearAnswer();
    say("Mark a person: drag on the picture, or add a box.");
    return;
  }
  const running = (state.running = new AbortController());
  busy(true);
  say("Predicting…");
  const start = performance.now();
  try {
    const answer = await fetchPrediction(model.name, picture.file, form, running.signal);
    const seconds = (performance.now() - start) / 1000;
    const [result] = answer.results;
    if (result.width !== picture.width || result.height !== picture.height) {
      clearAnswer();
      say("");
      complain(TURNED);
      return;
    }
    state.answer = { json: answer, result };
    stage.setResult(model, result);
    showAnswer();
    say(`${summary(result)} · ${seconds.toFixed(2)} s`);
  } catch (error) {
    if (error.name !== "AbortError") failed(error);
  } finally {
    if (state.running === running) {
      state.running = null;
      busy(false);
    }
  }
}

function failed(error) {
  state.running = null;
  busy(false);
  clearAnswer();
  say("");
  if (error.status === 401) askForToken(error);
  else complain(error.message, predict);
}

function busy(is) {
  at("busy").hidden = !is;
  at("frame").setAttribute("aria-busy", is);
}

async function openPicture(file, count = 1) {
  if (!file) {
    complain("There was no picture in it.");
    return;
  }
  // Whichever picture was chosen last counts, however long another takes to decode.
  const turn = (state.opening += 1);
  calm();
  let picture;
  try {
    picture = await Picture.open(file, state.limits);
  } catch (error) {
    if (turn === state.opening) complain(error.message);
    return;
  }
  if (turn !== state.opening) {
    picture.preview.close();
    return;
  }
  state.running?.abort();
  state.picture = picture;
  state.answer = null;
  people.setPicture(picture);
  stage.setPicture(picture);
  showAnswer();
  say(count > 1 ? `${count} files came; this is ${file.name}.` : "");
  predictSoon();
}

function setUpPictures() {
  const open = setUpCamera((file) => openPicture(file));
  for (const button of document.querySelectorAll(".choose")) button.addEventListener("click", () => at("file").click());
  for (const button of document.querySelectorAll(".open-camera")) button.addEventListener("click", open);
  at("file").addEventListener("change", () => {
    if (at("file").files.length) openPicture(at("file").files[0]);
    at("file").value = "";
  });
  addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) openPicture(firstFile(event.clipboardData));
    else if (!event.target.closest?.("input, select")) complain("There is no picture in the clipboard.");
  });
  let depth = 0;
  const hover = (by) => {
    depth = by ? Math.max(0, depth + by) : 0;
    at("landing").hidden = !depth;
  };
  const onFiles = (name, act) =>
    addEventListener(name, (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      act(event.dataTransfer);
    });
  onFiles("dragenter", () => hover(1));
  onFiles("dragleave", () => hover(-1));
  onFiles("dragover", () => {});
  onFiles("drop", (transfer) => {
    hover(0);
    openPicture(firstFile(transfer), transfer.files.length);
  });
}

function setUpSettings() {
  at("model").addEventListener("change", () => {
    chooseModel(at("model").value);
    predictSoon();
  });
  at("flip").addEventListener("change", () => predictSoon());
  at("top-k").addEventListener("change", () => {
    if (!at("top-k").reportValidity()) return;
    at("top-k").value = state.topK = at("top-k").valueAsNumber; // 1e1 is 10
    predictSoon();
  });
  at("top-k").addEventListener("blur", () => {
    if (!at("top-k").checkValidity()) at("top-k").value = state.topK;
  });
  at("display").addEventListener("input", (event) => {
    const shown = at("display").querySelector(`output[for="${event.target.id}"]`);
    if (shown) shown.textContent = Number(event.target.value).toFixed(2);
    if (state.answer?.result.people) showAnswer();
    else stage.draw();
  });
  at("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    connect();
  });
  at("dismiss").addEventListener("click", calm);
}

function setUpDownloads() {
  const name = (ending) => `${state.picture.stem}-${state.model.task}.${ending}`;
  at("save-json").addEventListener("click", () => {
    const text = `${JSON.stringify(state.answer.json, null, 1)}\n`;
    download(new Blob([text], { type: "application/json" }), name("json"));
  });
  at("save-png").addEventListener("click", async () => {
    try {
      download(await stage.png(), name("png"));
    } catch (error) {
      complain(error.message);
    }
  });
}

setUpPictures();
setUpSettings();
setUpDownloads();
loadModels();
