// The page: ties its parts together.
//
// The panels are parts of their own. Each exports one function, which is called once when the page starts:
//
//     mountModels(element, app)    of models.js, for the body of <aside id="panel-models">
//     mountCluster(element, app)   of cluster.js, for the body of <aside id="panel-cluster">
//
// `element` is empty, and theirs. The heading and the button that closes a panel are the frame's. `app` is
//
//     api.get(path), api.post(path, body), api.del(path)    → Promise of the JSON that was answered
//     api.stream(path, body|null, {signal, onEvent, onOpen}) → Promise, at the end of the stream;
//         onEvent({event, data, id}) is called for each event, `data` as text; onOpen(headers) before them
//         All raise ApiError {status, code, message, retryAfter} (js/api.js); an abort raises AbortError.
//     onOpen(panelId, fn), onClose(panelId, fn)    fn() when the panel is opened or closed by its reader
//     onReturn(fn)       fn() when the node is there again, or another key was given: what failed may work now
//     refreshModels()    → Promise; the list of models is asked for anew, as after a download
//     chooseModel(id)    the conversation goes on with this model
//     announce(text)     says it to who does not see the page
//     confirm(text, yes) → Promise<boolean>; `yes` is what the button says that goes on, "Delete" if left out
//     formatBytes(bytes), formatDuration(seconds)

import { ApiError, createApi } from "./api.js";
import { Chat } from "./chat.js";
import { mountCluster } from "./cluster.js";
import { Composer } from "./composer.js";
import { Connection } from "./connection.js";
import { announce, confirm, toast } from "./dialogs.js";
import { byId, drawIcons } from "./dom.js";
import { drawEmpty } from "./empty.js";
import { formatBytes, formatDuration } from "./format.js";
import { apiKey } from "./kept.js";
import { mountModels } from "./models.js";
import { Panes } from "./panes.js";
import { Picker } from "./picker.js";
import { defaults, openSettings, openTuning } from "./settings.js";
import { mountShortcuts, openHelp } from "./shortcuts.js";
import { Sidebar } from "./sidebar.js";
import { Forgetful, Store } from "./store.js";
import { mountTheme } from "./theme.js";
import { Thread } from "./thread.js";

drawIcons();
mountTheme();

const store = await Store.open().catch(() => {
  toast("This browser keeps nothing for this page: conversations are gone when the tab is closed.");
  return new Forgetful();
});
/** @type {(() => void)[]} */
const returning = [];
/** The key with which the field was closed again: it is not opened for the same one over and over.
 * @type {string|null} */
let refusedKey = null;
const connection = new Connection(returned);
const api = createApi({
  key: apiKey,
  onUnauthorized: () => {
    if (refusedKey !== apiKey()) askKey();
  },
  onUnreachable: () => connection.suspect(),
  onAnswer: () => connection.there(),
});
const panes = new Panes({ "panel-models": "open-models", "panel-cluster": "open-cluster" });
const picker = new Picker(api, pickerChanged);
const composer = new Composer({ onSend: (text) => chat.send(text), onStop: () => chat.stop() });
const thread = new Thread({
  retry: (message) => chat.retry(message),
  goOn: (message) => chat.goOn(message),
  edit: (message, text) => chat.edit(message, text),
  openKey: () => askKey(),
});
const chat = new Chat({
  api,
  store,
  thread,
  defaults,
  model: () => picker.model,
  nodeOf: (route) => picker.nodeOf(route),
  onOpen: opened,
  onChange: changed,
  onKept: () => sidebar.draw(),
  onNotKept: (error) => toast(`The browser did not keep this conversation: ${error?.message ?? error}.`),
});
const sidebar = new Sidebar({
  store,
  open: () => chat.conversation.id,
  answering: () => chat.answering,
  onDelete: async (id) => {
    chat.stop(id);
    if (id === chat.conversation.id) startNew();
  },
  onRename: async (id, title) => {
    const conversation = id === chat.conversation.id ? chat.conversation : await store.get(id);
    if (conversation) await store.put(Object.assign(conversation, { title }));
    nameTab();
  },
});

// What happens

/** Another conversation is open. @param {import("./conversation.js").Conversation} conversation */
function opened(conversation) {
  const isNew = !conversation.messages.length;
  picker.show(isNew ? "" : conversation.model);
  composer.open(isNew ? "new" : conversation.id);
  sidebar.draw();
}

/** The open conversation has more or fewer messages, or an answer began or ended. */
function changed() {
  const { conversation, isAnswering } = chat;
  const isEmpty = !conversation.messages.length;
  byId("empty").hidden = !isEmpty;
  if (isEmpty) showEmpty();
  composer.show(isAnswering);
  byId("scroll").setAttribute("aria-busy", String(isAnswering));
  if (!isEmpty && location.hash !== `#/${conversation.id}`) {
    composer.move(conversation.id);
    history.pushState(null, "", `#/${conversation.id}`);
  }
  nameTab();
}

function pickerChanged() {
  const { conversation } = chat;
  if (conversation.model !== picker.model) {
    conversation.model = picker.model;
    chat.keep();
  }
  if (!conversation.messages.length) showEmpty();
}

function showEmpty() {
  drawEmpty(picker, { onAsk: (question) => chat.send(question), onModels: () => panes.open("panel-models") });
}

function nameTab() {
  const { title } = chat.conversation;
  document.title = title ? `${title} · exo` : "exo";
}

/** The node is there again, or has another key. */
function returned() {
  refreshModels();
  for (const listener of returning) listener();
}

async function refreshModels() {
  try {
    await picker.refresh();
  } catch (error) {
    // The banner, or the field for the key, says more of these than a note could.
    if (!(error instanceof ApiError)) throw error;
    if (error.status !== 0 && error.status !== 401) toast(`The models could not be listed: ${error.message}`);
  }
}

function askKey() {
  const wanted = apiKey()
    ? "This node did not accept the key. Enter what EXO_API_KEY is there, or one that `exo key add` has made."
    : "This node wants its key before it answers: what EXO_API_KEY is there, or one that `exo key add` has made.";
  settings(wanted);
}

/** @param {string} [wanted] */
function settings(wanted = "") {
  const onDeleteAll = async () => {
    chat.stopAll();
    for (const { id } of await store.list()) await store.delete(id);
    startNew();
  };
  const onClose = () => {
    refusedKey = apiKey();
  };
  const onKey = () => {
    refusedKey = null;
    returned();
  };
  openSettings({ wanted, store, onKey, onClose, onImport: () => sidebar.draw(), onDeleteAll });
}

function startNew() {
  if (location.hash) history.pushState(null, "", location.pathname);
  chat.openNew();
  sidebar.fold();
  composer.focus();
}

/** Opens what the address names. */
async function follow() {
  const [, id] = /^#\/([\w-]+)$/.exec(location.hash) ?? [];
  if (id && id === chat.conversation.id) return;
  if (id && (await chat.open(id))) return;
  if (id) history.replaceState(null, "", location.pathname);
  chat.openNew();
}

// What the reader does

byId("new-chat").addEventListener("click", startNew);
byId("open-settings").addEventListener("click", () => settings());
byId("open-help").addEventListener("click", openHelp);
byId("open-tune").addEventListener("click", () => openTuning(chat.conversation.settings, () => chat.keep()));
byId("conversations").addEventListener("click", (/** @type {MouseEvent} */ event) => {
  if (event.target instanceof HTMLAnchorElement) sidebar.fold();
});
document.querySelector(".skip")?.addEventListener("click", (event) => {
  // The address is for conversations.
  event.preventDefault();
  composer.focus();
});
mountShortcuts({
  onSearch: () => sidebar.search(),
  onNew: startNew,
  onStop: () => {
    const { isAnswering } = chat;
    chat.stop();
    return isAnswering;
  },
});
window.addEventListener("hashchange", follow);
window.addEventListener("pagehide", () => chat.keep());
store.onChange(async (id) => {
  sidebar.draw();
  const { conversation } = chat;
  if (id !== conversation.id || chat.isAnswering || !conversation.messages.length) return;
  const theirs = await store.get(id);
  // What comes in another tab is shown once it is whole.
  if (theirs?.messages.every((each) => each.state !== "streaming")) chat.open(id);
});

const app = {
  api,
  onOpen: panes.onOpen.bind(panes),
  onClose: panes.onClose.bind(panes),
  onReturn: (/** @type {() => void} */ listener) => returning.push(listener),
  refreshModels,
  chooseModel: (/** @type {string} */ id) => picker.choose(id),
  announce,
  confirm,
  formatBytes,
  formatDuration,
};
mountModels(byId("panel-models").querySelector(".panel-body"), app);
mountCluster(byId("panel-cluster").querySelector(".panel-body"), app);
await follow();
composer.focus();
await refreshModels();
