/**
 * What a process has seen of definitions that never change. It hides when to ask: what was found
 * once is answered at once and for ever, what is not known is asked for again each time (somebody
 * may add it any moment), and many who ask for the same code at the same time share one question.
 * Bounded by count; what came first goes first, and is asked for again when it is needed.
 */
export interface DefinitionCache<Definition> {
  /**
   * At once when it is known here. The promise is null when there is none; it rejects as the
   * question does.
   */
  get(code: string): Definition | Promise<Definition | null>;
  put(code: string, definition: Definition): void;
}

export interface DefinitionCacheOptions<Definition> {
  readonly find: (code: string) => Promise<Definition | null>;
  readonly definitionsMax: number;
  /** Questions under way; past it `onTooMany` makes the error. */
  readonly questionsMax: number;
  readonly onTooMany: () => Error;
}

export function buildDefinitionCache<Definition extends object>(
  options: DefinitionCacheOptions<Definition>,
): DefinitionCache<Definition> {
  const { find, definitionsMax, questionsMax, onTooMany } = options;
  const known = new Map<string, Definition>();
  const asked = new Map<string, Promise<Definition | null>>();

  function put(code: string, definition: Definition): void {
    if (known.has(code)) return;
    if (known.size >= definitionsMax) known.delete(known.keys().next().value!);
    known.set(code, definition);
  }

  /** One question for all who ask meanwhile. */
  function shared(code: string): Promise<Definition | null> {
    let question = asked.get(code);
    if (question === undefined) {
      if (asked.size >= questionsMax) return Promise.reject(onTooMany());
      question = ask(code);
      asked.set(code, question);
    }
    return question;
  }

  async function ask(code: string): Promise<Definition | null> {
    try {
      const definition = await find(code);
      if (definition !== null) put(code, definition);
      return definition;
    } finally {
      asked.delete(code);
    }
  }

  return {
    get(code) {
      const definition = known.get(code);
      if (definition !== undefined) return definition;
      const question = asked.get(code);
      if (question === undefined) return shared(code);
      // It may have been asked just before the definition was added; a question that begins now has
      // not.
      return question.then((found) => found ?? shared(code));
    },
    put,
  };
}
