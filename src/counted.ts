/** How many of something, for people: `1 event`, `1,024 events`. */
export function counted(count: number, what: string): string {
  return `${COUNT.format(count)} ${what}${count === 1 ? "" : "s"}`;
}

const COUNT = new Intl.NumberFormat("en-US");
