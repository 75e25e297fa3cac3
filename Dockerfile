# syntax=docker/dockerfile:1
# Coffer as an image: one program, its role by ROLE. PostgreSQL is not in it, so DATABASE_URL must be set.
#   docker build -t coffer . && docker run --rm -p 127.0.0.1:3000:3000 -e DATABASE_URL=postgres://... coffer

FROM node:24-slim AS build
WORKDIR /coffer
COPY package.json package-lock.json ./
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY tsconfig.json ./
COPY src src
COPY actors actors
COPY gateway gateway
RUN npx tsc -p .

# Optional packages are the embedded PostgreSQL for every platform, and an accelerator that nothing needs.
FROM node:24-slim AS packages
WORKDIR /coffer
COPY package.json package-lock.json ./
RUN npm ci --omit=dev --omit=optional --ignore-scripts --no-audit --no-fund
# `npm run verify` and `npm run migrate` build first; here it is done, and there is no compiler.
RUN npm pkg set scripts.build=true

FROM node:24-slim
WORKDIR /coffer
ENV NODE_ENV=production HOST=0.0.0.0 PORT=3000 NPM_CONFIG_UPDATE_NOTIFIER=false
COPY --from=packages /coffer/node_modules node_modules
COPY --from=packages /coffer/package.json ./
COPY --from=build /coffer/dist dist
COPY src/migrations src/migrations
USER node
EXPOSE 3000
# Alive, not ready: a database that is away is no reason to restart anything.
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 \
  CMD ["node", "-e", "fetch('http://127.0.0.1:' + process.env.PORT + '/health/live').then((it) => process.exit(it.ok ? 0 : 1), () => process.exit(1))"]
# By hand: docker run --rm -e DATABASE_URL=... coffer npm run verify, or: npm run migrate -- status.
# As `npm start` does it. No shell and no npm in between: SIGTERM reaches Coffer, which hands over and ends by itself.
CMD ["node", "--enable-source-maps", "--max-semi-space-size=32", "dist/src/main.js"]
