/**
 * Assets: what there is, and adding own ones. They are no commands: no wallet decides, the
 * database's key does. The first creation answers 201; the same definition again answers the same body
 * with 200 and `Idempotent-Replayed`, whoever sends it and with whatever key; another definition is
 * refused, since wallets rely on the first, and so is a key that was sent with another one.
 */
import { NOT_STORABLE, UNSTORABLE } from "../../src/core/metadata.ts";
import type { Assets } from "../../src/assets.ts";
import { keyOf } from "../command-intake.ts";
import { apiError, ApiException } from "../errors.ts";
import { CreateAssetBody, CreatedAsset } from "./game-schemas.ts";
import { keyHeader, type Routes } from "../http-server.ts";
import { refusedField } from "../pages.ts";
import { AssetPage } from "./read-schemas.ts";
import { NoQuery, problems } from "../schemas.ts";
import { DRY_RUN } from "./wallet-routes.ts";

const tags = ["assets"];

export function addAssetRoutes(routes: Routes, assets: Assets): void {
  routes.get(
    "/assets",
    {
      schema: {
        tags,
        summary: "All assets, in the order of their codes",
        description:
          "ISO 4217 and your own (`isOwn`), on one page. Those of your own are spread over the databases: with one of them away it is `unavailable`.",
        querystring: NoQuery,
        response: { 200: AssetPage, ...problems },
      },
    },
    () => assets.allAssets(),
  );
  routes.post(
    "/assets",
    {
      schema: {
        tags,
        summary: "Add an asset of your own",
        description:
          "For ever: an asset is never changed or removed. The same definition again gets the same body with 200; another one under its code gets `asset_already_exists`, and so does another one of an ISO 4217 code. A key that was sent with another definition gets `idempotency_conflict`.",
        body: CreateAssetBody,
        response: { 200: CreatedAsset, 201: CreatedAsset, ...problems },
      },
    },
    async (request, reply) => {
      const { code, name, decimalPlaces, idempotencyKey, dryRun = false } = request.body;
      const key = keyOf(idempotencyKey, keyHeader(request));
      if (key !== null && typeof key !== "string") throw new ApiException(key);
      if (UNSTORABLE.test(name)) throw refusedField("name", NOT_STORABLE);
      if (dryRun) reply.header(DRY_RUN, "true");
      const created = await assets.create({ code, name, decimalPlaces }, dryRun, key);
      switch (created.type) {
        case "created":
          return reply.code(201).send(created.asset);
        case "known":
          return reply.header("idempotent-replayed", "true").send(created.asset);
        case "conflict": {
          const { asset } = created;
          const message = `Asset ${code} exists as ${JSON.stringify(asset.name)} with ${asset.decimalPlaces} decimal places, and assets do not change`;
          throw new ApiException(apiError("asset_already_exists", message, asset));
        }
        case "key_taken": {
          const details = { idempotencyKey: key };
          throw new ApiException(apiError("idempotency_conflict", undefined, details));
        }
        case "full":
          throw new ApiException(apiError("asset_limit_reached"));
        case "unknown": {
          const message = `It is not known whether asset ${code} has been added; send it again`;
          throw new ApiException(apiError("outcome_unknown", message, { code }));
        }
        default:
          return created satisfies never;
      }
    },
  );
}
