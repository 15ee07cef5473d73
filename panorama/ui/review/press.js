// A button that is drawn anew between press and release is not clicked; and a click answers what stood there at the press. So what Python says
// meanwhile waits for the release.

const press = (globalThis.__panoramaPress ??= { isDown: false, waiting: [], timer: 0, mayTake: 1000 }); // ms: whoever holds a button longer sees what is new

function whenReleased(root, then) {
  followPresses();
  if (press.isDown) press.waiting.push([root, then]);
  else then();
}

function followPresses() {
  if (press.isWatched) return;
  press.isWatched = true;
  const follow = ({ type, key, button, repeat, target }) => {
    if ((type === "pointerdown" && button === 0) || (type === "keydown" && key === " " && !repeat)) {
      press.isDown = true;
      releaseAfter(press.mayTake);
    } else if (["pointerup", "pointercancel"].includes(type) || (type === "keyup" && key === " ") || (type === "blur" && target === window)) {
      releaseAfter(0); // the click comes first
    }
  };
  for (const type of ["pointerdown", "pointerup", "pointercancel", "keydown", "keyup", "blur"]) window.addEventListener(type, follow, true);
}

function releaseAfter(ms) {
  if (!press.isDown) return;
  clearTimeout(press.timer);
  press.timer = setTimeout(release, ms);
}

function release() {
  press.isDown = false;
  for (const [root, then] of press.waiting.splice(0)) if (root.isConnected) then();
}
