from apnet_jax.parallel import sharded_gallery


def test_galleries_are_rounded_up():
  for items in (0, 1, 63, 64, 65, 8191, 8192, 8193, 20_000):
    rows = sharded_gallery.padded_rows(items, tile=2048)
    share = rows // 4
    tile = share // -(-max(share, 1) // 2048)
    assert items <= rows < items + 4 * 16 * (1 + items // 8192) + 64
    assert rows % 4 == 0 and share % tile == 0
    assert tile % 16 == 0 and tile <= 2048
