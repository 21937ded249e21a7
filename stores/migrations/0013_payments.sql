-- What is sold, what was ordered and paid, and who owns what because of it.
--
-- Money is in minor units (cents, tiyin) of an ISO 4217 currency. Nothing here ever holds data of a card.

DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'finalbell_payments') THEN
    CREATE ROLE finalbell_payments NOLOGIN;
  END IF;
END
$$;
GRANT USAGE ON SCHEMA public TO finalbell_payments;
GRANT SELECT ON setting TO finalbell_payments;

CREATE TABLE product (
  id text COLLATE "C" PRIMARY KEY,
  title text NOT NULL,
  description text NOT NULL DEFAULT '',
  amount int NOT NULL CHECK (amount >= 0),
  currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  validity_days int CHECK (validity_days > 0),  -- how long it is owned; null: for good
  available boolean NOT NULL DEFAULT true,      -- whether it can be bought now; who owns it keeps it
  created_at timestamptz NOT NULL DEFAULT now()
);

-- A bundle's parts, which are owned as long as the bundle is.
CREATE TABLE product_part (
  product_id text COLLATE "C" NOT NULL REFERENCES product ON DELETE CASCADE,
  part_id text COLLATE "C" NOT NULL REFERENCES product,
  PRIMARY KEY (product_id, part_id),
  CHECK (part_id <> product_id)
);

-- What a product opens.
CREATE TABLE product_opens (
  product_id text COLLATE "C" NOT NULL REFERENCES product ON DELETE CASCADE,
  kind text NOT NULL CHECK (kind IN ('EXAM', 'BANK', 'LECTURE')),
  ref text COLLATE "C" NOT NULL,
  PRIMARY KEY (product_id, kind, ref)
);
CREATE INDEX product_opens_ref ON product_opens (kind, ref);

-- Which products open an exam: the one that its file names, and all that say so themselves. None: it is free.
CREATE VIEW exam_product AS
  SELECT id AS exam_id, product_id FROM exam WHERE product_id IS NOT NULL
  UNION SELECT ref, product_id FROM product_opens WHERE kind = 'EXAM';

CREATE TABLE coupon (
  code text COLLATE "C" PRIMARY KEY,
  percent int CHECK (percent BETWEEN 1 AND 100),
  amount int CHECK (amount > 0),
  currency text CHECK (currency ~ '^[A-Z]{3}$'),
  products text[],            -- which it is good for; null: any
  most_uses int CHECK (most_uses > 0),
  most_uses_each int NOT NULL DEFAULT 1 CHECK (most_uses_each > 0),
  starts_at timestamptz,
  ends_at timestamptz,
  CHECK ((percent IS NULL) <> (amount IS NULL)),
  CHECK ((amount IS NULL) = (currency IS NULL))
);

-- One order: committed, with the key that the gateway is called with, before the gateway is called. Price, currency and student
-- are the server's. `status`, `paid_at` and `refunded` are the fold of its facts.
CREATE TABLE payment (
  id uuid PRIMARY KEY DEFAULT uuidv7(),
  student_id text COLLATE "C" NOT NULL,
  product_id text COLLATE "C" NOT NULL REFERENCES product,
  provider text NOT NULL,
  amount int NOT NULL CHECK (amount >= 0),
  currency text NOT NULL,
  list_amount int NOT NULL,
  coupon text COLLATE "C" REFERENCES coupon,
  live boolean NOT NULL,
  order_key uuid,             -- the student's idempotency key
  gateway_ref text,           -- what the gateway calls it
  url text,                   -- where the student pays
  secret text,                -- or what an app pays with
  status text NOT NULL DEFAULT 'OPEN'
    CHECK (status IN ('OPEN', 'FAILED', 'EXPIRED', 'PAID', 'REFUNDED', 'DISPUTED', 'LOST')),
  paid_at timestamptz,
  refunded int NOT NULL DEFAULT 0,
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz NOT NULL,
  polled_at timestamptz,      -- when the gateway was last asked what has become of it
  UNIQUE (student_id, order_key),
  UNIQUE (provider, gateway_ref)
);
-- Two tabs get one checkout: whoever has one open for a product cannot pay for it twice.
CREATE UNIQUE INDEX payment_open ON payment (student_id, product_id) WHERE status = 'OPEN';
CREATE INDEX payment_unsettled ON payment (polled_at NULLS FIRST) WHERE status = 'OPEN';
CREATE INDEX payment_coupon ON payment (coupon, student_id) WHERE coupon IS NOT NULL;

-- What gateways told us, whole, once each. QUARANTINED: it is signed, and does not match the order that it names.
CREATE TABLE webhook_event (
  provider text NOT NULL,
  event_id text NOT NULL,
  kind text NOT NULL,
  body bytea NOT NULL,
  outcome text NOT NULL CHECK (outcome IN ('APPLIED', 'STORED', 'QUARANTINED')),
  why text NOT NULL DEFAULT '',
  payment_id uuid,
  received_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (provider, event_id)
);
CREATE INDEX webhook_event_quarantined ON webhook_event (received_at) WHERE outcome = 'QUARANTINED';

-- What is known of an order: a set, so that it does not matter in which order and how often it was told.
CREATE TABLE payment_fact (
  payment_id uuid NOT NULL REFERENCES payment,
  kind text NOT NULL
    CHECK (kind IN ('PAID', 'FAILED', 'EXPIRED', 'REFUNDED', 'DISPUTE_OPENED', 'DISPUTE_WON', 'DISPUTE_LOST')),
  ref text NOT NULL,          -- the gateway's name of what happened: a payment, a refund, a dispute
  amount int NOT NULL,
  at timestamptz NOT NULL,    -- by the gateway's clock
  told_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (payment_id, kind, ref)
);

-- Until when each gateway's own list of events has been read.
CREATE TABLE gateway_read (
  provider text PRIMARY KEY,
  until timestamptz NOT NULL
);

-- The ledger: every grant and every revocation, and why. `entitlement` is its fold. Rows are only ever added.
CREATE TABLE entitlement_entry (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  student_id text COLLATE "C" NOT NULL,
  product_id text COLLATE "C" NOT NULL,
  source text COLLATE "C" NOT NULL,  -- whose word it is: payment:<id>, or admin:<id>
  granted boolean NOT NULL,
  reason text NOT NULL,
  starts_at timestamptz,
  ends_at timestamptz,               -- null: for good
  actor text NOT NULL,
  at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX entitlement_entry_owner ON entitlement_entry (student_id, product_id, source, id);

GRANT SELECT ON exam_product TO finalbell_session, finalbell_content, finalbell_scoring, finalbell_leaderboard, finalbell_admin;
GRANT SELECT ON entitlement TO finalbell_scoring;
GRANT SELECT ON product, product_part, product_opens TO finalbell_payments;
GRANT INSERT, UPDATE ON product, coupon TO finalbell_payments;
GRANT INSERT, DELETE ON product_part, product_opens TO finalbell_payments;
GRANT SELECT ON coupon, payment, webhook_event, payment_fact, entitlement_entry, entitlement TO finalbell_payments;
GRANT INSERT, UPDATE ON payment, entitlement TO finalbell_payments;
GRANT SELECT, INSERT, UPDATE ON gateway_read TO finalbell_payments;
GRANT UPDATE (outcome, why, payment_id) ON webhook_event TO finalbell_payments;
GRANT INSERT ON webhook_event, payment_fact, entitlement_entry, audit_log TO finalbell_payments;
