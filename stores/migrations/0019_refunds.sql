-- What was asked to be given back, by the key that it was asked with: a repeat is the same refund, though the first one has changed
-- by now how much is left.
CREATE TABLE payment_refund (
  payment_id uuid NOT NULL REFERENCES payment,
  key text NOT NULL,  -- what the gateway is called with
  amount int NOT NULL,
  at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (payment_id, key)
);
GRANT SELECT, INSERT ON payment_refund TO finalbell_payments;

-- An order's messages are read by `finalbell payments show` and before each refund, and this table only grows. While the index is
-- made, webhooks wait: gateways repeat what is not answered in time.
CREATE INDEX webhook_event_payment ON webhook_event (payment_id) WHERE payment_id IS NOT NULL;
