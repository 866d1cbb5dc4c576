// Figures as people read them. Pure.

/** Bytes, in units of 1024: "0 B", "812 KiB", "1.4 GiB". @param {number} bytes */
export function formatBytes(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit > 0 && value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** Seconds: "40 ms", "0.4 s", "12 s", "3 min 5 s", "2 h 4 min". @param {number} seconds */
export function formatDuration(seconds) {
  if (seconds > 0 && seconds < 0.0995) return `${Math.max(1, Math.round(seconds * 1000))} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return whole % 60 ? `${minutes} min ${whole % 60} s` : `${minutes} min`;
  return minutes % 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${Math.floor(minutes / 60)} h`;
}

/** Tokens per second: "7.8 tokens/s", "112 tokens/s". @param {number} speed */
export function formatSpeed(speed) {
  return `${speed < 20 ? speed.toFixed(1) : Math.round(speed)} tokens/s`;
}

/** "1 token", "2 tokens". @param {number} count @param {string} noun */
export function counted(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}
