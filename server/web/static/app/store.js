// Keeps this browser's pictures in IndexedDB, and not without end. Knows records; knows nothing of the page.
//
// A run is what was asked for: { id, created, fields, sources, mask }. A picture is one that it gave:
// { id, run, index, seed, blob, created, width, height }; there the blob itself is kept, not a copy in base64.

export const MOST = 300; // pictures; the oldest go first

let opening = null;

function open() {
  opening ??= new Promise((resolve, reject) => {
    const asked = indexedDB.open("darkroom", 1);
    asked.onupgradeneeded = () => {
      asked.result.createObjectStore("runs", { keyPath: "id" });
      asked.result.createObjectStore("pictures", { keyPath: "id" }).createIndex("run", "run");
    };
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });
  return opening;
}

async function change(work) {
  const database = await open();
  const transaction = database.transaction(["runs", "pictures"], "readwrite");
  const done = new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error);
  });
  work(transaction.objectStore("runs"), transaction.objectStore("pictures"));
  return done;
}

function answer(asked) {
  return new Promise((resolve, reject) => {
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });
}

/**
 * Everything that is kept: the pictures, in no order, each with its run, and with an address in place of its blob.
 * A browser frees no room as long as a script holds a blob of it; an address can be given back.
 */
export async function load() {
  const database = await open();
  const transaction = database.transaction(["runs", "pictures"]);
  const [runs, pictures] = await Promise.all(["runs", "pictures"].map((name) => answer(transaction.objectStore(name).getAll())));
  const byId = new Map(runs.map((run) => [run.id, run]));
  return pictures.filter(({ run }) => byId.has(run)).map(({ blob, run, ...picture }) => (
    { ...picture, run: byId.get(run), type: blob.type, bytes: blob.size, url: URL.createObjectURL(blob) }
  ));
}

/** A kept picture's blob. */
export async function read({ id }) {
  const database = await open();
  return (await answer(database.transaction("pictures").objectStore("pictures").get(id))).blob;
}

/** Keep a picture and its run. */
export function keep({ id, run, index, seed, blob, created, width, height }) {
  return change((runs, pictures) => {
    runs.put(run);
    pictures.put({ id, run: run.id, index, seed, blob, created, width, height });
  });
}

/** Delete a picture, and its run with the last of its pictures. */
export function drop({ id, run }) {
  return change((runs, pictures) => {
    pictures.delete(id);
    pictures.index("run").count(run.id).onsuccess = ({ target }) => {
      if (target.result === 0) runs.delete(run.id);
    };
  });
}

/** Delete everything. */
export function clear() {
  return change((runs, pictures) => {
    runs.clear();
    pictures.clear();
  });
}
