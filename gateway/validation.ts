/**
 * Turns the schemas into checks, and what is wrong into words that name the field. It hides the
 * validation library: Fastify and the NATS service both call `checkOf`. Values are never changed,
 * except that a query's integers, which arrive as text, become numbers. A wrong amount is reported
 * as an amount (`invalid_amount`), all else as `validation_failed`, at most
 * `LIMITS.validationProblemsMax` fields at a time.
 */
import type { TSchema } from "typebox";
import { Compile } from "typebox/schema";

import { AMOUNT_DIGITS_MAX, canonicalAmount, type AmountProblem } from "../src/core/amount.ts";
import { LIMITS } from "../src/limits.ts";
import { apiError, validationFailed, type ApiError, type FieldProblem } from "./errors.ts";
import { PATTERN_RULES } from "./schemas.ts";

/** Null when the value is as it should be. */
export type Check = (value: unknown) => ApiError | null;

/** Where a value came from: the name of the whole in messages, when it has no field to name. */
export type InputPart = "body" | "params" | "querystring" | "headers";

const compiled = new WeakMap<object, Check>();

/** The check of a schema, compiled once. */
export function checkOf(schema: TSchema, part: InputPart = "body"): Check {
  const known = compiled.get(schema);
  if (known !== undefined) return known;
  const validator = Compile(schema);
  const cut = cutOf(schema);
  const check: Check = (given) => {
    const value = cut(given);
    return validator.Check(value) ? null : refuse(validator.Errors(value)[1], value, part);
  };
  compiled.set(schema, check);
  return check;
}

/**
 * Leaves out unknown fields of a closed shape beyond those that an error lists. The validator looks
 * at each field, and a body can have hundreds of thousands: seconds in which nobody else is served.
 */
function cutOf(schema: TSchema): (value: unknown) => unknown {
  const { additionalProperties, properties, patternProperties } = schema as ObjectSchema;
  if (additionalProperties !== false || patternProperties !== undefined) return (value) => value;
  const names = Object.keys(properties ?? {});
  const known = new Set(names);
  return (value) => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
    const unknown: string[] = [];
    for (const name in value) {
      if (known.has(name)) continue;
      if (unknown.push(name) < LIMITS.validationProblemsMax) continue;
      const kept = [...names.filter((each) => Object.hasOwn(value, each)), ...unknown];
      return Object.fromEntries(
        kept.map((each) => [each, (value as Record<string, unknown>)[each]]),
      );
    }
    return value;
  };
}

interface ObjectSchema {
  readonly additionalProperties?: unknown;
  readonly properties?: object;
  readonly patternProperties?: object;
}

interface SchemaError {
  readonly keyword: string;
  readonly instancePath: string;
  readonly params: object;
  readonly message: string;
}

/**
 * Fields that are amounts of money; a number or a text there is a wrong amount, not a wrong type.
 */
const AMOUNT_FIELDS = new Set(["amount", "initialBalance"]);

function refuse(errors: readonly SchemaError[], value: unknown, part: InputPart): ApiError {
  const problems: FieldProblem[] = [];
  let amountError: ApiError | null = null;
  for (const error of errors) {
    if (problems.length >= LIMITS.validationProblemsMax) break;
    // JSON such as 1e400 is read as Infinity: a number, and out of range. Where the schema has no
    // such field it is not an amount, but unknown.
    const field = fieldOf(error.instancePath);
    if (AMOUNT_FIELDS.has(field) && error.keyword === "type") {
      const amount = (value as Record<string, unknown>)[field];
      if (typeof amount === "number") {
        amountError = wrongAmount(field, amount);
        continue;
      }
    }
    addProblems(problems, error, value, part);
  }
  if (problems.length === 0 && amountError !== null) return amountError;
  return validationFailed(problems);
}

const SHOWN_CHARS = 64;
const DIGITS = /^\d+(?:\.\d+)?$/;

/** The error for an amount that `canonicalAmount` refuses; null for one that it takes. */
export function wrongAmount(field: string, amount: unknown): ApiError | null {
  const canonical = canonicalAmount(amount);
  if (canonical.ok) return null;
  const { problem } = canonical;
  // JSON's 1e400: the reader of the body has lost what the caller wrote.
  if (typeof amount === "number" && !Number.isFinite(amount)) {
    return apiError(problem, `${field} ${amount > 0 ? TOO_LARGE : NOT_POSITIVE}`, { field });
  }
  const text = String(amount);
  const shown = text.slice(0, SHOWN_CHARS);
  const cut = text.length > shown.length ? " and so on" : "";
  const quoted = (typeof amount === "string" ? JSON.stringify(shown) : shown) + cut;
  const message = `${field} ${quoted} ${problemOf(problem, amount)}`;
  return apiError(problem, message, { field, amount: shown });
}

const NOT_POSITIVE = "is not a positive decimal number";
const TOO_LARGE = "is out of range: amounts stay under 10^15 minor units";

function problemOf(problem: AmountProblem, amount: unknown): string {
  if (problem === "amount_out_of_range") return TOO_LARGE;
  const isTooLong =
    typeof amount === "string"
      ? DIGITS.test(amount) && /[1-9]/.test(amount)
      : typeof amount === "number" && amount > 0;
  return isTooLong
    ? `has more than ${AMOUNT_DIGITS_MAX} digits before or after the decimal point`
    : NOT_POSITIVE;
}

function fieldOf(instancePath: string): string {
  return instancePath.slice(1).replaceAll("~1", "/").replaceAll("~0", "~").slice(0, 128);
}

function isListAt(value: unknown, field: string): boolean {
  return Array.isArray((value as Record<string, unknown>)[field]);
}

function addProblems(
  problems: FieldProblem[],
  error: SchemaError,
  value: unknown,
  part: InputPart,
): void {
  const { instancePath } = error;
  const message = ruleOf(error);
  const add = (field: string, text: string): void => {
    if (problems.length >= LIMITS.validationProblemsMax) return;
    problems.push({ field: field === "" ? part : field, message: text });
  };
  const params = error.params as {
    requiredProperties?: string[];
    allowedValues?: unknown[];
    pattern?: string;
  };
  const field = fieldOf(instancePath);
  const inside = (name: string): string => (field === "" ? name : `${field}/${name}`).slice(0, 128);
  switch (error.keyword) {
    case "required":
      for (const name of params.requiredProperties ?? []) add(inside(name), "is required");
      return;
    case "boolean":
      // A field that the schema has no place for; `additionalProperties` names the same ones once
      // more.
      add(field, "is not known here");
      return;
    case "additionalProperties":
      return;
    case "enum":
      add(field, `must be one of ${(params.allowedValues ?? []).join(", ")}`);
      return;
    case "pattern":
      add(field, PATTERN_RULES[String(params.pattern)] ?? message);
      return;
    case "type":
      // Only a query's parser makes lists of single values.
      add(field, part === "querystring" && isListAt(value, field) ? "is given twice" : message);
      return;
    default:
      add(field, message);
  }
}

const TYPE_RULES: Readonly<Record<string, string>> = {
  array: "must be a list",
  boolean: "must be true or false",
  integer: "must be a whole number",
  number: "must be a number",
  object: "must be an object",
  string: "must be a string",
};

/** What was asked for, in words for a person where the library has terms. */
export function ruleOf({ keyword, params, message }: Omit<SchemaError, "instancePath">): string {
  const { type, limit } = params as { type?: string | string[]; limit?: number };
  switch (keyword) {
    case "type":
      if (Array.isArray(type)) return `must be ${type.map((name) => `a ${name}`).join(" or ")}`;
      return TYPE_RULES[String(type)] ?? message;
    case "minimum":
      return `must be at least ${limit}`;
    case "maximum":
      return `must be at most ${limit}`;
    case "minLength":
    case "minItems":
      return limit === 1 ? "must not be empty" : message;
    default:
      return message;
  }
}

const INTEGER = /^-?\d{1,15}$/;

/**
 * A query with its integers read; the parser gives text, and a list for a parameter that was given
 * twice, which no schema here allows.
 */
export function readQuery(schema: TSchema, query: unknown): unknown {
  const { properties = {} } = schema as { properties?: Record<string, { type?: unknown }> };
  const read: Record<string, unknown> = { ...(query as object) };
  for (const name of Object.keys(properties)) {
    const value = read[name];
    if (properties[name]?.type !== "integer" || typeof value !== "string") continue;
    if (INTEGER.test(value)) read[name] = Number(value);
  }
  return read;
}
