// Asking the service, with a key where it wants one.

const PREFIX = "/api/v1/analytics";
const KEY = "analytics-key";
const PATIENCE_MS = 30_000;

/** What went wrong, as the service says it; `status` is 0 without an answer. */
export class Failure extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export const key = () => sessionStorage.getItem(KEY);

let asking = null;

/** Ask the person for a key. All who need one wait for the same answer. */
function askForKey(wrong) {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("key");
    const input = document.getElementById("key-input");
    document.getElementById("key-wrong").hidden = !wrong;
    input.value = "";
    dialog.addEventListener(
      "close",
      () => {
        asking = null;
        if (input.value) sessionStorage.setItem(KEY, input.value.trim());
        resolve(Boolean(input.value));
        if (input.value) window.dispatchEvent(new Event("key"));
      },
      { once: true },
    );
    dialog.showModal();
  });
  return asking;
}

async function ask(path, query, signal, accept) {
  const search = new URLSearchParams(query);
  const headers = { Accept: accept };
  const used = key();
  if (used) headers.Authorization = `Bearer ${used}`;
  const patience = AbortSignal.timeout(PATIENCE_MS);
  let answer;
  try {
    answer = await fetch(`${PREFIX}${path}?${search}`, {
      headers,
      signal: signal ? AbortSignal.any([signal, patience]) : patience,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Failure(0, "The service does not answer.");
  }
  if (answer.ok) return answer;
  // Another request may have brought a key meanwhile.
  if (answer.status === 401 && (used !== key() || (await askForKey(Boolean(used))))) {
    return ask(path, query, signal, accept);
  }
  const problem = await answer.json().catch(() => ({}));
  throw new Failure(answer.status, problem.detail ?? `The service answers ${answer.status}.`);
}

/** The answer to a question. Raises Failure, or an AbortError when nobody waits any more. */
export async function get(path, query, signal) {
  return (await ask(path, query, signal, "application/json")).json();
}

/** Save the same answer as a file of comma-separated values. */
export async function download(path, query, name) {
  const answer = await ask(path, { ...query, format: "csv" }, undefined, "text/csv");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** A WebSocket to what is happening now. */
export function openLive(tz) {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const used = key();
  const address = `${scheme}://${location.host}${PREFIX}/live?${new URLSearchParams({ tz })}`;
  return new WebSocket(address, used ? ["analytics.v1", `key.${used}`] : ["analytics.v1"]);
}
